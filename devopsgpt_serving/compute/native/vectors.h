// Vectors of 16 floats: what the other files compute with, and the functions that a layer needs of them.
//
// avx512.h and avx2.h have the type Floats, + - * / on it, and these:
//   spread(x)                     x in every lane
//   load(from), store(to, x)      floats, or half precision in memory
//   load_first(from, count)       the first lanes from memory, 0 in the others; store_first(to, count, x) alike
//   first_or(x, count, other)     the first lanes of x, the others of `other`
//   multiply_add(a, b, c)         a * b + c, rounded once
//   smaller, larger(a, b)         lane by lane; b where a is not a number
//   magnitude(x), nearest(x)      |x|; the nearest whole number
//   times_power_of_2(x, power)    x * 2^power, power a whole number from -126 to 127
//   sum(x), largest(x)            over the lanes
// and Register, what one instruction takes, with spread_register, spread_bits (of a float as an
// int32), load_register, store_register and multiply_add.
#pragma once

#include <cstdint>
#include <initializer_list>

#if defined(__AVX512F__)
#include "avx512.h"
#else
#include "avx2.h"
#endif

constexpr int LANES = 16;

#if defined(FORMAT_FLOAT32)
using Stored = float;  // what keys and values are kept as
#else
using Stored = uint16_t;  // IEEE half precision: 11 bits are more than bfloat16's 8, in the same memory
#endif

// e^x to 2 units in the last place: 2^whole * a polynomial of the rest, |rest| <= ln 2 / 2. Cephes' coefficients.
inline Floats exponential(Floats x) {
    x = larger(smaller(x, spread(88.0f)), spread(-87.0f));
    const Floats whole = nearest(x * spread(1.44269504f));
    Floats rest = multiply_add(whole, spread(-0.693359375f), x);
    rest = multiply_add(whole, spread(2.12194440e-4f), rest);
    Floats sum = spread(1.9875691500e-4f);
    for (float coefficient : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        sum = multiply_add(sum, rest, spread(coefficient));
    sum = multiply_add(rest * rest, sum, rest + spread(1.0f));
    return times_power_of_2(sum, whole);
}

// GPT-2's GELU: x * (1 + tanh(u)) / 2 = x / (1 + e^(-2u)), u = sqrt(2 / pi) * (x + 0.044715 x^3)
inline Floats gelu(Floats x) {
    const Floats one = spread(1.0f);
    const Floats cubic = multiply_add(x * x, spread(0.044715f), one);
    const Floats u = x * spread(-1.5957691216f) * cubic;
    return x / (one + exponential(u));
}

// Layer norm of one token. x, weight, bias, y: (width,)
inline void layer_norm(const float *x, const float *weight, const float *bias, int64_t width, float *y) {
    Floats total = spread(0.0f), squares = spread(0.0f);
    for (int64_t i = 0; i < width; i += LANES) total = total + load(x + i);
    const Floats mean = spread(sum(total) / width);
    for (int64_t i = 0; i < width; i += LANES) {
        const Floats off = load(x + i) - mean;
        squares = multiply_add(off, off, squares);
    }
    const float variance = sum(squares) / width;
    const Floats steep = spread(1.0f / __builtin_sqrtf(variance + 1e-5f));
    for (int64_t i = 0; i < width; i += LANES)
        store(y + i, multiply_add((load(x + i) - mean) * steep, load(weight + i), load(bias + i)));
}

struct Magnitude {
    float largest, strange;  // strange: not a number where some x is not finite, else 0
};

// The largest |x|, at least 1e-12. x: (count,)
inline Magnitude largest_magnitude(const float *x, int64_t count) {
    Floats most = spread(1e-12f), strange = spread(0.0f);
    for (int64_t i = 0; i < count; i += LANES) {
        const Floats each = load(x + i);
        most = larger(most, magnitude(each));
        strange = multiply_add(each, spread(0.0f), strange);
    }
    return {largest(most), sum(strange)};
}
