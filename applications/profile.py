"""Profiles a model: firing rates, operations and energy, layer by layer, and pictures.

    python applications/profile.py --model_file=results/demo/SEWResNet8_digits.keras
    python applications/profile.py --model=SEWResNet18 --dataset=cifar10 --examples=64

Prints the table, writes it as JSON, and writes pictures where matplotlib is installed. The program
is in `profile_model.py`.
"""

if __name__ == "__main__":
    import common
    import profile_model
    from absl import flags

    flags.adopt_module_key_flags(profile_model)
    common.run(profile_model.main, "profile")
else:
    # This folder comes first on its programs' path, and PyTorch imports Python's own `profile`.
    import pathlib
    import sysconfig

    source = pathlib.Path(sysconfig.get_path("stdlib"), "profile.py")
    exec(compile(source.read_text(), source, "exec"))
