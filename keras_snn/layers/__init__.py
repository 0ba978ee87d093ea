from keras_snn.layers.base import *
from keras_snn.layers.connections import *
from keras_snn.layers.neurons import *
from keras_snn.layers.normalization import *
from keras_snn.layers.parallel import *
from keras_snn.layers.readouts import *
from keras_snn.layers.registry import *
from keras_snn.layers.time import *
