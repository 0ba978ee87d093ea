"""Surrogate gradients: the Heaviside step forward, a named smooth derivative backward.

A surrogate is a small serialisable object. Calling it on `u` (membrane potential minus
threshold) gives spikes that are exactly 0 or 1 (NaN where `u` is NaN); differentiating through the
call uses `derivative(u)` instead of the step's zero-or-infinite slope. `primitive(u)` is an
antiderivative, so that finite differences can test `derivative`.

Add a surrogate by subclassing `Surrogate` here; its name is then known to `get`.
"""

import inspect
import math

import keras
from keras import ops

from keras_snn import dynamics
from keras_snn.utils.deprecation import renamed

__all__ = [
    "S2NN",
    "ATan",
    "Custom",
    "Erf",
    "FakeNumericalGradient",
    "FastSigmoid",
    "LeakyKReLU",
    "LogTailedReLU",
    "MultiGaussian",
    "NonzeroSignLogAbs",
    "PiecewiseExp",
    "PiecewiseLeakyReLU",
    "PiecewiseQuadratic",
    "QPseudoSpike",
    "Rectangle",
    "Sigmoid",
    "SoftSign",
    "SquarewaveFourier",
    "StraightThrough",
    "SuperSpike",
    "Surrogate",
    "Triangle",
    "deserialize",
    "get",
    "heaviside",
    "list_surrogates",
    "serialize",
]
__getattr__ = renamed(__name__)


def heaviside(x, strict=False):
    """The step function: 1 where `x >= 0` (where `x > 0` if `strict`), else 0; NaN stays NaN.

    Args:
        x: A float tensor of any shape.
        strict: Whether exactly 0 stays below the step.

    Returns:
        A tensor of zeros and ones with the shape and dtype of `x`.

    Example:

    >>> print(keras.ops.convert_to_numpy(heaviside(keras.ops.array([-1.0, 0.0, 2.0]))))
    [0. 1. 1.]
    """
    # Operators, not `ops.greater_equal`: the latter breaks torch's ONNX export.
    return dynamics.keep_nan(ops.cast(x > 0 if strict else x >= 0, x.dtype), x)


def jax_gradient(function, backward):
    """A function with a custom gradient on JAX that can itself be differentiated.

    (With `keras.ops.custom_gradient` no gradient flows through the outputs that the backward pass
    reads.)

    Args:
        function: A function of tensors that returns tensors.
        backward: `f(inputs, outputs, upstream)`: the gradients to the inputs, a tuple.

    Returns:
        The function.
    """
    import jax

    run = jax.custom_vjp(function)

    def forward(*inputs):
        outputs = run(*inputs)
        return outputs, (inputs, outputs)

    run.defvjp(forward, lambda saved, upstream: backward(*saved, upstream))
    return run


def with_slope(function, slope, x):
    """`function(x)`, whose derivative is taken to be `slope(x)`.

    Args:
        function: From a float tensor to one of the same shape and dtype.
        slope: From a float tensor to one of the same shape.
        x: A float tensor of any shape.

    Returns:
        A tensor like `x`.
    """
    x = ops.convert_to_tensor(x)
    if keras.backend.backend() == "jax":
        return jax_gradient(
            function,
            lambda inputs, _, upstream: (upstream * ops.cast(slope(*inputs), upstream.dtype),),
        )(x)

    # The two calling styles: TensorFlow passes the upstream gradient as the only positional
    # argument, torch passes the saved inputs and `upstream` by name.
    @ops.custom_gradient
    def run(x):
        def grad(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return upstream * ops.cast(slope(x), x.dtype)

        return function(x), grad

    return run(x)


class Surrogate:
    """Base class of all surrogates.

    A subclass defines `derivative`, and `primitive` where there is one. Arguments of the
    constructor are stored under their own names; `get_config` reads them back.

    Example:

    >>> surrogate = ATan(alpha=2.0)
    >>> print(keras.ops.convert_to_numpy(surrogate(keras.ops.array([-0.1, 0.0, 0.1]))))
    [0. 1. 1.]
    >>> print(keras.ops.convert_to_numpy(surrogate.derivative(keras.ops.array([0.0]))))
    [1.]
    """

    def __init_subclass__(cls):
        super().__init_subclass__()
        if cls.__module__ == __name__:
            keras.saving.register_keras_serializable(package="keras_snn")(cls)
            _REGISTRY[_key(cls.__name__)] = cls

    def __call__(self, x, strict=False):
        """Spikes of `x`, with the surrogate derivative attached.

        Args:
            x: Membrane potential minus threshold, a float tensor of any shape.
            strict: Whether `x == 0` stays silent.

        Returns:
            Zeros and ones, with the shape and dtype of `x`.
        """
        return with_slope(lambda x: heaviside(x, strict), self.derivative, x)

    def count(self, x, most, strict=False):
        """Integer spikes, `round(clip(x, 0, most))`: those of `most` thresholds, 1/2, 3/2, ...

        Backward, the slope is 0 outside of 0 to `most`, and within it the derivative at the
        distance to the nearest of these thresholds: 1 of `StraightThrough`.

        Args:
            x: Membrane potential as a multiple of the threshold, a float tensor of any shape.
            most: Largest number of spikes, an integer.
            strict: Whether a number half way between two integers always gives the lower one, not
                the even one.

        Returns:
            Integers from 0 to `most`, with the shape and dtype of `x`.

        Source: Luo et al. (2024), I-LIF.

        Example:

        >>> x = keras.ops.array([-1.0, 0.4, 1.6, 9.0])
        >>> print(keras.ops.convert_to_numpy(StraightThrough().count(x, 4)))
        [0. 0. 2. 4.]
        """

        def spikes(x):
            z = ops.clip(x, 0, most)
            return dynamics.keep_nan(ops.ceil(z - 0.5) if strict else ops.round(z), x)

        def slope(x):
            nearest = ops.clip(ops.floor(x), 0, most - 1) + 0.5
            return ops.where((x >= 0) & (x <= most), self.derivative(x - nearest), 0.0)

        return with_slope(spikes, slope, x)

    def derivative(self, x):
        """The slope used backward.

        Args:
            x: Membrane potential minus threshold, a float tensor of any shape.

        Returns:
            A tensor like `x`.
        """
        raise TypeError(f"{type(self).__name__} must define `derivative(x)`.")

    def primitive(self, x):
        """An antiderivative of `derivative`.

        Args:
            x: A float tensor of any shape.

        Returns:
            A tensor like `x`.

        Raises:
            ValueError: If this surrogate is known by its derivative only.
        """
        raise ValueError(f"The surrogate {self!r} has no primitive.")

    def get_config(self):
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __eq__(self, other):
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self):
        return hash((type(self), tuple(self.get_config().items())))

    def __repr__(self):
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


_REGISTRY = {}
_ALIASES = {
    "arctan": "atan",
    "fourier": "squarewavefourier",
    "gaussian": "erf",
    "leakyrelu": "piecewiseleakyrelu",
    "rect": "rectangle",
    "ste": "straightthrough",
}


def _key(name):
    """`"PiecewiseQuadratic"`, `"piecewise_quadratic"` and the like: one key."""
    key = name.replace("_", "").replace("-", "").lower()
    return _ALIASES.get(key, key)


def _positive(name, value):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(
            f"Received an invalid value for argument `{name}`, expected a positive number, "
            f"got {value!r}."
        )
    return value


class _OneParameter(Surrogate):
    """A surrogate with the single positive parameter `alpha`."""

    def __init__(self, alpha):
        self.alpha = _positive("alpha", alpha)


class Sigmoid(_OneParameter):
    """Logistic sigmoid: derivative `alpha * s(alpha x) * (1 - s(alpha x))`, 1 at 0 by default.

    Args:
        alpha: Steepness. SpikingJelly's default 4 is ours; snnTorch's `sigmoid` has 25.

    Source: SpikingJelly `Sigmoid`, snnTorch `sigmoid`.
    """

    def __init__(self, alpha=4.0):
        super().__init__(alpha)

    def derivative(self, x):
        sigmoid = ops.sigmoid(self.alpha * x)
        return self.alpha * sigmoid * (1 - sigmoid)

    def primitive(self, x):
        return ops.sigmoid(self.alpha * x)


class ATan(_OneParameter):
    """Arc tangent: derivative `(alpha / 2) / (1 + (pi alpha x / 2)^2)`, the default surrogate.

    Args:
        alpha: Steepness; the derivative at 0 is `alpha / 2`.

    Source: SEW-ResNet (Fang et al., 2021); SpikingJelly `ATan`, snnTorch `atan`.
    """

    def __init__(self, alpha=2.0):
        super().__init__(alpha)

    def derivative(self, x):
        # (alpha / 2) / (1 + (pi / 2 alpha x)^2), in fewer operations
        curvature = math.pi**2 / 2 * self.alpha
        return ops.reciprocal(2 / self.alpha + curvature * ops.square(x))

    def primitive(self, x):
        return ops.arctan((math.pi / 2 * self.alpha) * x) / math.pi + 0.5


class PiecewiseQuadratic(_OneParameter):
    """Triangular derivative `max(0, alpha - alpha^2 |x|)`, the slope of two parabolas.

    Args:
        alpha: Height of the triangle; its half width is `1 / alpha`.

    Source: SpikingJelly `PiecewiseQuadratic`.
    """

    def __init__(self, alpha=1.0):
        super().__init__(alpha)

    def derivative(self, x):
        return ops.relu(self.alpha - self.alpha**2 * ops.abs(x))

    def primitive(self, x):
        z = ops.clip(self.alpha * x, -1, 1)
        return z - 0.5 * z * ops.abs(z) + 0.5


class Triangle(Surrogate):
    """Triangle of half width 1: derivative `gamma * max(0, 1 - |x|)`.

    Args:
        gamma: Height at 0.

    Source: S-ResNet (Vicente-Sola et al., 2022) and hybrid training (Rathi et al., 2020).
    """

    def __init__(self, gamma=0.3):
        self.gamma = _positive("gamma", gamma)

    def derivative(self, x):
        return self.gamma * ops.relu(1 - ops.abs(x))

    def primitive(self, x):
        z = ops.clip(x, -1, 1)
        return self.gamma * (z - 0.5 * z * ops.abs(z) + 0.5)


class PiecewiseExp(_OneParameter):
    """Two-sided exponential: derivative `scale (alpha / 2) exp(-alpha |x|)`.

    Args:
        alpha: Steepness.
        scale: Factor on the derivative; that of SLAYER's form in SE-adLIF's code is 0.4.

    Source: SpikingJelly `PiecewiseExp`.
    """

    def __init__(self, alpha=1.0, scale=1.0):
        super().__init__(alpha)
        self.scale = _positive("scale", scale)

    def derivative(self, x):
        return (self.scale * self.alpha / 2) * ops.exp(-self.alpha * ops.abs(x))

    def primitive(self, x):
        half = 0.5 * self.scale
        return 0.5 + half * ops.sign(x) * (1 - ops.exp(-self.alpha * ops.abs(x)))


class Rectangle(_OneParameter):
    """Rectangle: derivative `alpha` where `|x| < 1 / (2 alpha)`, else 0.

    Args:
        alpha: Height; the width is `1 / alpha`.

    Source: STBP-tdBN (Zheng et al., 2021), whose width `a` is `1 / alpha`; SpikingJelly `Rect`.
    """

    def __init__(self, alpha=1.0):
        super().__init__(alpha)

    def derivative(self, x):
        return self.alpha * ops.cast(ops.abs(x) < 0.5 / self.alpha, x.dtype)

    def primitive(self, x):
        return ops.clip(self.alpha * x + 0.5, 0, 1)


class SoftSign(_OneParameter):
    """Soft sign: derivative `1 / (2 alpha (1 / alpha + |x|)^2)`.

    Args:
        alpha: Steepness; the derivative at 0 is `alpha / 2`.

    Source: SpikingJelly `SoftSign`.
    """

    def __init__(self, alpha=2.0):
        super().__init__(alpha)

    def derivative(self, x):
        return 1 / (2 * self.alpha * ops.square(1 / self.alpha + ops.abs(x)))

    def primitive(self, x):
        z = self.alpha * x
        return 0.5 * (z / (1 + ops.abs(z)) + 1)


class SuperSpike(_OneParameter):
    """SuperSpike: derivative `alpha / (1 + |x|)^2`. `alpha` is a height, not a slope.

    Args:
        alpha: Height at 0.

    Source: SpikingJelly `SuperSpike`; with `alpha=1` Norse's `super`.
    """

    def __init__(self, alpha=1.0):
        super().__init__(alpha)

    def derivative(self, x):
        return self.alpha / ops.square(1 + ops.abs(x))

    def primitive(self, x):
        return self.alpha * x / (1 + ops.abs(x)) + 0.5


class FastSigmoid(Surrogate):
    """Fast sigmoid: derivative `1 / (1 + slope |x|)^2`.

    Args:
        slope: Steepness; the derivative at 0 is always 1.

    Source: Zenke and Ganguli (2018); snnTorch `fast_sigmoid`, Spyx `superspike`.
    """

    def __init__(self, slope=25.0):
        self.slope = _positive("slope", slope)

    def derivative(self, x):
        return 1 / ops.square(1 + self.slope * ops.abs(x))

    def primitive(self, x):
        return x / (1 + self.slope * ops.abs(x)) + 0.5


class NonzeroSignLogAbs(_OneParameter):
    """Logarithm: derivative `1 / (1 / alpha + |x|)`.

    Args:
        alpha: Height at 0.

    Source: SpikingJelly `NonzeroSignLogAbs`.
    """

    def __init__(self, alpha=1.0):
        super().__init__(alpha)

    def derivative(self, x):
        return 1 / (1 / self.alpha + ops.abs(x))

    def primitive(self, x):
        return ops.sign(x) * ops.log(1 + self.alpha * ops.abs(x))


class Erf(_OneParameter):
    """Gaussian: derivative `(alpha / sqrt(pi)) exp(-alpha^2 x^2)`, the slope of an error function.

    Args:
        alpha: Steepness; the Gaussian's standard deviation is `1 / (alpha sqrt(2))`.

    Source: SpikingJelly `Erf`.
    """

    def __init__(self, alpha=2.0):
        super().__init__(alpha)

    def derivative(self, x):
        return (self.alpha / math.sqrt(math.pi)) * ops.exp(-ops.square(self.alpha * x))

    def primitive(self, x):
        return 0.5 * (1 + ops.erf(self.alpha * x))


class MultiGaussian(Surrogate):
    """A Gaussian less two wide ones beside it: the derivative is below 0 far from the threshold.

    `gamma ((1 + height) N(x; 0, sigma) - height (N(x; sigma, w) + N(x; -sigma, w)))`, where
    `N(x; m, s)` is the density of a normal distribution, and `w = scale * sigma`.

    Args:
        sigma: Standard deviation of the middle one.
        height: Share of the others.
        scale: How much wider these are.
        gamma: Factor on all.

    Source: Yin et al. (2021), and the code of Zheng et al. (2024).
    """

    def __init__(self, sigma=0.5, height=0.15, scale=6.0, gamma=0.5):
        self.sigma = _positive("sigma", sigma)
        self.height = _positive("height", height)
        self.scale = _positive("scale", scale)
        self.gamma = _positive("gamma", gamma)

    def _sum(self, function, x):
        """The weighted sum of a function of the normal distributions, `function(z, deviation)`."""
        wide, sigma = self.scale * self.sigma, self.sigma
        sides = sum(function((x - mean) / wide, wide) for mean in (sigma, -sigma))
        return self.gamma * ((1 + self.height) * function(x / sigma, sigma) - self.height * sides)

    def derivative(self, x):
        def density(z, deviation):
            return ops.exp(-0.5 * ops.square(z)) / (math.sqrt(2 * math.pi) * deviation)

        return self._sum(density, x)

    def primitive(self, x):
        return self._sum(lambda z, deviation: 0.5 * (1 + ops.erf(z / math.sqrt(2))), x)


class PiecewiseLeakyReLU(Surrogate):
    """Leaky ReLU on both sides: derivative `1 / (2 w)` where `|x| < w`, else `c`.

    Args:
        w: Half width of the steep part.
        c: Slope outside.

    Source: SpikingJelly `PiecewiseLeakyReLU`.
    """

    def __init__(self, w=1.0, c=0.01):
        self.w = _positive("w", w)
        self.c = c

    def derivative(self, x):
        return self.c + (0.5 / self.w - self.c) * ops.cast(ops.abs(x) < self.w, x.dtype)

    def primitive(self, x):
        inside = ops.clip(x, -self.w, self.w)
        return inside * (0.5 / self.w) + 0.5 + self.c * (x - inside)


class LeakyKReLU(Surrogate):
    """Leaky ReLU: derivative `k` where `x >= 0`, else `leak`.

    Args:
        leak: Slope below the threshold.
        k: Slope above it.

    Source: SpikingJelly `LeakyKReLU`.
    """

    def __init__(self, leak=0.0, k=1.0):
        self.leak = leak
        self.k = k

    def derivative(self, x):
        return self.leak + (self.k - self.leak) * ops.cast(x >= 0, x.dtype)

    def primitive(self, x):
        return ops.where(x >= 0, self.k * x, self.leak * x)


class S2NN(Surrogate):
    """S2NN: a sigmoid's slope below the threshold, a logarithm's above.

    Derivative `alpha s(alpha x) (1 - s(alpha x))` where `x < 0`, else `beta / (x + 1)`.

    Args:
        alpha: Steepness below.
        beta: Height just above.

    Source: Suetake et al. (2022); SpikingJelly `S2NN`.
    """

    def __init__(self, alpha=4.0, beta=1.0):
        self.alpha = _positive("alpha", alpha)
        self.beta = _positive("beta", beta)

    def derivative(self, x):
        sigmoid = ops.sigmoid(self.alpha * x)
        above = self.beta / (ops.relu(x) + 1)
        return ops.where(x < 0, self.alpha * sigmoid * (1 - sigmoid), above)

    def primitive(self, x):
        above = self.beta * ops.log(ops.relu(x) + 1) + 0.5
        return ops.where(x < 0, ops.sigmoid(self.alpha * x), above)


class QPseudoSpike(Surrogate):
    """q-pseudo-spike: derivative `(1 + 2 |x| / (alpha - 1))^(-alpha)`.

    Args:
        alpha: Tail exponent, above 1; larger means lighter tails.

    Source: Herranz-Celotti and Rouat (2022); SpikingJelly `QPseudoSpike`.
    """

    def __init__(self, alpha=2.0):
        if not _positive("alpha", alpha) > 1:
            raise ValueError(
                "Received an invalid value for argument `alpha`, expected a number above 1, "
                f"got {alpha!r}."
            )
        self.alpha = alpha

    def derivative(self, x):
        return ops.power(1 + (2 / (self.alpha - 1)) * ops.abs(x), -self.alpha)

    def primitive(self, x):
        tail = ops.power(1 + (2 / (self.alpha - 1)) * ops.abs(x), 1 - self.alpha)
        return 0.5 + 0.5 * ops.sign(x) * (1 - tail)


class StraightThrough(Surrogate):
    """Straight-through estimator: derivative 1 everywhere.

    Source: Bengio et al. (2013); snnTorch `straight_through_estimator`.
    """

    def derivative(self, x):
        return ops.ones_like(x)

    def primitive(self, x):
        return x


class LogTailedReLU(Surrogate):
    """Log-tailed ReLU: derivative `alpha` where `x <= 0`, 1 up to 1, `1 / x` above.

    Args:
        alpha: Slope below the threshold.

    Source: SpikingJelly `LogTailedReLU`.
    """

    def __init__(self, alpha=0.0):
        self.alpha = alpha

    def derivative(self, x):
        return ops.where(x <= 0, self.alpha, 1 / ops.maximum(x, 1.0))

    def primitive(self, x):
        above = ops.minimum(x, 1.0) + ops.log(ops.maximum(x, 1.0))
        return ops.where(x <= 0, self.alpha * x, above)


class SquarewaveFourier(Surrogate):
    """Fourier series of a square wave: `(4 / period) sum_i cos((2i - 1) 2 pi x / period)`.

    Args:
        n: The sum runs over `i = 1 .. n - 1`, so that `n=2` is a single cosine.
        period: Period of the square wave.

    Source: SpikingJelly `SquarewaveFourierSeries`.
    """

    def __init__(self, n=2, period=8.0):
        if not isinstance(n, int) or n < 2:
            raise ValueError(
                "Received an invalid value for argument `n`, expected an integer of at least 2, "
                f"got {n!r}."
            )
        self.n = n
        self.period = _positive("period", period)

    def _frequencies(self):
        return [(2 * i - 1) * 2 * math.pi / self.period for i in range(1, self.n)]

    def derivative(self, x):
        return (4 / self.period) * sum(ops.cos(w * x) for w in self._frequencies())

    def primitive(self, x):
        waves = sum(ops.sin(w * x) / w for w in self._frequencies())
        return 0.5 + (4 / self.period) * waves


class FakeNumericalGradient(_OneParameter):
    """Difference quotient of the step: derivative `min(1 / |x|, alpha)`.

    Args:
        alpha: Upper bound, reached around 0.

    Source: SpikingJelly `FakeNumericalGradient`.
    """

    def __init__(self, alpha=0.3):
        super().__init__(alpha)

    def derivative(self, x):
        return 1 / ops.maximum(ops.abs(x), 1 / self.alpha)

    def primitive(self, x):
        outside = ops.log(ops.maximum(self.alpha * ops.abs(x), 1.0))
        return ops.clip(self.alpha * x, -1, 1) + ops.sign(x) * outside


class Custom(Surrogate):
    """A derivative given as a function.

    To save a model that uses it, register the function with
    `keras.saving.register_keras_serializable`, or give it in `custom_objects` when loading.

    Args:
        derivative: A function of `u` (membrane potential minus threshold) made of `keras.ops`.
        primitive: Optional antiderivative of `derivative`.

    Example:

    >>> surrogate = Custom(lambda x: keras.ops.exp(-keras.ops.abs(x)))
    >>> print(keras.ops.convert_to_numpy(surrogate.derivative(keras.ops.array([0.0]))))
    [1.]
    """

    def __init__(self, derivative, primitive=None):
        for name, function in (("derivative", derivative), ("primitive", primitive)):
            if not (callable(function) or (name == "primitive" and function is None)):
                raise TypeError(
                    f"Received an invalid value for argument `{name}`, expected a function, "
                    f"got {function!r}."
                )
        self._derivative = derivative
        self._primitive = primitive

    def derivative(self, x):
        return self._derivative(x)

    def primitive(self, x):
        return super().primitive(x) if self._primitive is None else self._primitive(x)

    def get_config(self):
        return {"derivative": self._derivative, "primitive": self._primitive}

    @classmethod
    def from_config(cls, config):
        return cls(**{k: keras.saving.deserialize_keras_object(v) for k, v in config.items()})


def list_surrogates():
    """The surrogates that `get` knows by name (`"PiecewiseExp"` or `"piecewise_exp"`), sorted.

    Example:

    >>> "ATan" in list_surrogates()
    True
    """
    hidden = ("_", "Custom")
    return sorted(c.__name__ for c in _REGISTRY.values() if not c.__name__.startswith(hidden))


def get(identifier):
    """The surrogate for an identifier.

    Args:
        identifier: A `Surrogate`; a name such as `"atan"` (its defaults); a config dictionary from
            `serialize`; a `Surrogate` subclass; or a function, taken as the derivative.

    Returns:
        A `Surrogate`.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If the identifier is of another kind.

    Example:

    >>> get("atan")
    ATan(alpha=2.0)
    """
    if isinstance(identifier, Surrogate):
        return identifier
    if isinstance(identifier, dict):
        return deserialize(identifier)
    if isinstance(identifier, str):
        cls = _REGISTRY.get(_key(identifier))
        if cls is None or cls.__name__ not in list_surrogates():
            raise ValueError(
                f"Unknown surrogate: {identifier!r}. Allowed names: {', '.join(list_surrogates())}."
            )
        return cls()
    if inspect.isclass(identifier) and issubclass(identifier, Surrogate):
        return identifier()
    if callable(identifier):
        return Custom(identifier)
    raise TypeError(
        "Received an invalid value for argument `surrogate`, expected a name, a config, "
        f"a function or a `Surrogate`, got {identifier!r}."
    )


def serialize(surrogate):
    """The config dictionary of a surrogate, for `deserialize` or `get`.

    Args:
        surrogate: A `Surrogate`.

    Returns:
        A dictionary that can be saved as JSON.

    Example:

    >>> deserialize(serialize(Sigmoid(alpha=3.0)))
    Sigmoid(alpha=3.0)
    """
    return keras.saving.serialize_keras_object(surrogate)


def deserialize(config, custom_objects=None):
    """The surrogate of a config dictionary.

    Args:
        config: What `serialize` returned.
        custom_objects: Optional dictionary of further names.

    Returns:
        A `Surrogate`.

    Raises:
        TypeError: If the config describes something else.

    Example:

    >>> deserialize(serialize(Triangle()))
    Triangle(gamma=0.3)
    """
    surrogate = keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)
    if not isinstance(surrogate, Surrogate):
        raise TypeError(f"Expected the config of a surrogate, got {config!r}.")
    return surrogate
