"""The Mackey-Glass series, a chaotic function of time, for regression: synthetic, in NumPy."""

import dataclasses

import numpy as np

from keras_snn.utils.arguments import check_integer, check_number

__all__ = ["MackeyGlass", "mackey_glass"]

# For each delay the Lyapunov time and the value of the past, of NeuroBench's table.
SERIES = {
    17: (197, 0.7206597),
    18: (138, 0.7744313),
    19: (315, 0.7783468),
    20: (131, 0.9225991),
    21: (191, 0.9479431),
    22: (119, 0.5455960),
    23: (106, 0.8622247),
    24: (97, 0.3259660),
    25: (98, 0.8297825),
    26: (104, 1.0033490),
    27: (112, 0.6491406),
    28: (119, 1.0957495),
    29: (131, 0.9256179),
    30: (139, 0.2713639),
}


@dataclasses.dataclass(frozen=True)
class MackeyGlass:
    """A series of points, of which the first part is for training.

    Attributes:
        train: Points to train on, `(points,)`, float64.
        test: Points to forecast, `(points,)`: what follows.
        interval: Time between two points.
        lyapunov_time: Time in which small differences grow by the factor e.
    """

    train: np.ndarray
    test: np.ndarray
    interval: float
    lyapunov_time: float

    def windows(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The training points as windows and what follows each.

        Args:
            length: Points of a window.

        Returns:
            Windows `(examples, length, 1)` and targets `(examples, 1)`, float32.

        Raises:
            ValueError: If a window has no point, or there is no point after the first one.
        """
        if check_integer("length", length) >= len(self.train):
            raise ValueError(f"`length` should be below {len(self.train)}, got {length}.")
        x = np.lib.stride_tricks.sliding_window_view(self.train, length)[:-1, :, None]
        return x.astype("float32"), self.train[length:, None].astype("float32")


def mackey_glass(
    tau: float = 17,
    *,
    lyapunov_time: float | None = None,
    past: float | None = None,
    beta: float = 0.2,
    gamma: float = 0.1,
    exponent: float = 10,
    points_per_lyapunov_time: int = 75,
    train_time: float = 10.0,
    test_time: float = 10.0,
    start: float = 0.0,
    step: float = 0.05,
) -> MackeyGlass:
    """The Mackey-Glass series as NeuroBench divides it: train on the past, forecast what follows.

        dx/dt = beta x(t - tau) / (1 + x(t - tau)^exponent) - gamma x(t),   x(t) = past for t <= 0

    by Runge-Kutta steps of fourth order, with Hermite polynomials for the past between two steps.
    The equation is chaotic: with the delay 17, another computer's rounding gives other points after
    some ten Lyapunov times, and NeuroBench says the same of its own files. Series agree in kind.

    Args:
        tau: The delay, above 0.
        lyapunov_time: The unit of the times below. By default NeuroBench's for this delay, which is
            known for whole numbers from 17 to 30.
        past: The value before time 0. By default NeuroBench's for this delay.
        beta: Rate of growth.
        gamma: Rate of decay.
        exponent: Of the delayed value.
        points_per_lyapunov_time: Points in a Lyapunov time.
        train_time: Lyapunov times to train on.
        test_time: Lyapunov times to forecast.
        start: Lyapunov times that are left out before the first point.
        step: The largest step of the integration.

    Returns:
        A `MackeyGlass`.

    Raises:
        ValueError: If a number is out of its range, or one is missing for a delay that NeuroBench
            does not have.

    Source: Mackey and Glass (1977); Yik et al., "The NeuroBench framework", Nature Communications
    16, 1545 (2025), and its table of 14 series.

    Example:

    >>> series = mackey_glass(17, train_time=2, test_time=1)
    >>> series.train.shape, series.test.shape, round(float(series.train[1]), 4)
    ((150,), (75,), 0.875)
    """
    check_number("tau", tau, above=0)
    known = SERIES.get(tau, (None, None))
    lyapunov_time = known[0] if lyapunov_time is None else lyapunov_time
    past = known[1] if past is None else past
    if lyapunov_time is None or past is None:
        raise ValueError(
            f"Give `lyapunov_time` and `past` for tau={tau}: they are known for {list(SERIES)}."
        )
    check_number("lyapunov_time", lyapunov_time, above=0)
    check_number("past", past, minimum=0)
    for name, value in (("beta", beta), ("gamma", gamma), ("exponent", exponent)):
        check_number(name, value, minimum=0)
    check_integer("points_per_lyapunov_time", points_per_lyapunov_time)
    check_number("train_time", train_time, above=0)
    check_number("test_time", test_time, above=0)
    check_number("start", start, minimum=0)
    check_number("step", step, above=0, maximum=tau)
    train, test = (round(time * points_per_lyapunov_time) for time in (train_time, test_time))
    if not train or not test:
        raise ValueError(f"There should be points to train on and to forecast, got {train}, {test}")
    interval = lyapunov_time / points_per_lyapunov_time
    times = start * lyapunov_time + interval * np.arange(train + test)
    points = _integrate(times, tau, past, beta, gamma, exponent, step)
    return MackeyGlass(points[:train], points[train:], interval, lyapunov_time)


def _integrate(times, tau, past, beta, gamma, exponent, step):
    """The solution at `times`, which rise.

    Whole steps make a delay: the solution's kinks, at multiples of it, are between steps.
    """
    delay = int(np.ceil(tau / step))
    step = tau / delay
    count = int(np.ceil(times[-1] / step)) + 1

    def growth(x):
        return beta * x / (1 + x**exponent)

    x = [past] * (delay + 1)  # x[i] is at (i - delay) step
    slope = [0.0] * (delay + 1)  # to the right of the point
    for i in range(count):
        old, new = x[i], x[i + 1]
        # The slope to the left of a kink, at time 0, is that of the constant past.
        end = 0.0 if i + 1 == delay else slope[i + 1]
        begin = 0.0 if i < delay else slope[i]
        middle = (old + new) / 2 + step * (begin - end) / 8
        first, half, last = growth(old), growth(middle), growth(new)
        v = x[-1]
        k1 = first - gamma * v
        k2 = half - gamma * (v + step / 2 * k1)
        k3 = half - gamma * (v + step / 2 * k2)
        k4 = last - gamma * (v + step * k3)
        slope[-1] = k1
        x.append(v + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
        slope.append(last - gamma * x[-1])
    x, slope = np.array(x[delay:]), np.array(slope[delay:])
    place = np.minimum((times / step).astype(int), count - 1)
    s = times / step - place
    return (
        (1 + 2 * s) * (1 - s) ** 2 * x[place]
        + s * (1 - s) ** 2 * step * slope[place]
        + s**2 * (3 - 2 * s) * x[place + 1]
        + s**2 * (s - 1) * step * slope[place + 1]
    )
