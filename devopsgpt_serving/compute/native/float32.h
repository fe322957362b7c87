// float32 throughout.
#pragma once

constexpr int GROUP = 1, ROWS = 1, BYTES = 4 * REGISTER;

using Sum = Register;
using Weights = Register;
using Word = Register;

inline Weights load_weights(const uint8_t *from) { return load_register((const float *)from); }
inline Word spread_word(int32_t word) { return spread_bits(word); }
inline Sum first_sum(const Inputs &, int64_t) { return spread_register(0.0f); }
inline Sum add_products(Sum sum, Weights weights, Word inputs) { return multiply_add(weights, inputs, sum); }
inline Register total(const Matrix &, const Inputs &, int64_t, int64_t, const Sum (*rows)[2], int half) {
    return rows[0][half];
}

inline void Inputs::take(int64_t token, const float *x, int64_t in) {
    float *to = (float *)words + token * in;
    for (int64_t i = 0; i < in; i += LANES) store(to + i, load(x + i));
}
