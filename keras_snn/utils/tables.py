"""Tables as text."""


def table_lines(rows, left=1):
    """The lines of a table with aligned columns.

    Args:
        rows: Rows of equally many strings, the first one the header.
        left: Number of columns, from the first, that are aligned to the left.

    Returns:
        A list of strings.

    Example:

    >>> table_lines([("layer", "rate"), ("lif", "0.1")])
    ['layer  rate', 'lif     0.1']
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
