from keras_snn.layers.base import *
from keras_snn.layers.neurons import *
