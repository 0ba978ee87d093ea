#ifndef KERAS_SNN_NEURONS_H_
#define KERAS_SNN_NEURONS_H_

#include "nnet_common.h"

// One step of a layer of neurons, and of a readout. States stay between calls; after `window` steps
// they start anew (0: never).

namespace nnet {

struct membrane_config {
    static const unsigned n_in = 1;
    static const unsigned window = 0;
    typedef float state_t;
};

template <class data_T, class res_T, typename CONFIG_T>
void membrane(data_T x[CONFIG_T::n_in], res_T y[CONFIG_T::n_in]) {
    #pragma HLS PIPELINE
    static typename CONFIG_T::state_t v[CONFIG_T::n_in];
    static unsigned step = 0;
    #pragma HLS ARRAY_PARTITION variable=v complete

    for (unsigned i = 0; i < CONFIG_T::n_in; i++) {
        #pragma HLS UNROLL
        typename CONFIG_T::state_t before = step ? v[i] : CONFIG_T::first();
        typename CONFIG_T::state_t h = CONFIG_T::charge(before, x[i], i);
        if (CONFIG_T::fires) {
            bool spike = CONFIG_T::strict ? h > CONFIG_T::threshold(i) : h >= CONFIG_T::threshold(i);
            y[i] = spike ? 1 : 0;
            v[i] = spike ? CONFIG_T::after(h, i) : h;
        } else {
            y[i] = h;
            v[i] = h;
        }
    }
    step = (step + 1 == CONFIG_T::window) ? 0 : (CONFIG_T::window ? step + 1 : 1);
}

template <class data_T, class res_T, typename CONFIG_T>
void reduction(data_T x[CONFIG_T::n_in], res_T y[CONFIG_T::n_in]) {
    #pragma HLS PIPELINE
    static typename CONFIG_T::state_t so_far[CONFIG_T::n_in];
    static unsigned step = 0;
    #pragma HLS ARRAY_PARTITION variable=so_far complete

    for (unsigned i = 0; i < CONFIG_T::n_in; i++) {
        #pragma HLS UNROLL
        typename CONFIG_T::state_t value = x[i];
        if (CONFIG_T::largest) {
            so_far[i] = (step && so_far[i] > value) ? so_far[i] : value;
            y[i] = so_far[i];
        } else {
            so_far[i] = step ? typename CONFIG_T::state_t(so_far[i] + value) : value;
            y[i] = so_far[i] * CONFIG_T::scale();
        }
    }
    step = (step + 1 == CONFIG_T::window) ? 0 : (CONFIG_T::window ? step + 1 : 1);
}

} // namespace nnet

#endif
