// Vectors of 16 floats: what the other files compute with.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <initializer_list>

constexpr int LANES = 16;

#if defined(FORMAT_FLOAT32)
using Stored = float;  // what keys and values are kept as
#else
using Stored = uint16_t;  // IEEE half precision: 11 bits are more than bfloat16's 8, in the same memory
#endif

inline __m512 load_stored(const float *from) { return _mm512_loadu_ps(from); }
inline __m512 load_stored(const uint16_t *from) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)); }

inline void store(float *to, __m512 x) { _mm512_storeu_ps(to, x); }
inline void store(uint16_t *to, __m512 x) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline __mmask16 first_lanes(int64_t count) { return count >= LANES ? 0xffff : (__mmask16)((1u << count) - 1); }

// e^x to 2 units in the last place: 2^whole * a polynomial of the rest, |rest| <= ln 2 / 2. Cephes' coefficients.
inline __m512 exponential(__m512 x) {
    x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(88.0f)), _mm512_set1_ps(-87.0f));
    const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
    rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
    __m512 sum = _mm512_set1_ps(1.9875691500e-4f);
    for (float coefficient : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(coefficient));
    sum = _mm512_fmadd_ps(_mm512_mul_ps(rest, rest), sum, _mm512_add_ps(rest, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(sum, whole);
}

// GPT-2's GELU: x * (1 + tanh(u)) / 2 = x / (1 + e^(-2u)), u = sqrt(2 / pi) * (x + 0.044715 x^3)
inline __m512 gelu(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f), one);
    const __m512 u = _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(-1.5957691216f)), cubic);
    return _mm512_div_ps(x, _mm512_add_ps(one, exponential(u)));
}

// Layer norm of one token. x, weight, bias, y: (width,)
inline void layer_norm(const float *x, const float *weight, const float *bias, int64_t width, float *y) {
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + i));
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / width);
    for (int64_t i = 0; i < width; i += LANES) {
        const __m512 off = _mm512_sub_ps(_mm512_loadu_ps(x + i), mean);
        squares = _mm512_fmadd_ps(off, off, squares);
    }
    const float variance = _mm512_reduce_add_ps(squares) / width;
    const __m512 steep = _mm512_set1_ps(1.0f / __builtin_sqrtf(variance + 1e-5f));
    for (int64_t i = 0; i < width; i += LANES) {
        const __m512 normal = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), mean), steep);
        store(y + i, _mm512_fmadd_ps(normal, _mm512_loadu_ps(weight + i), _mm512_loadu_ps(bias + i)));
    }
}
