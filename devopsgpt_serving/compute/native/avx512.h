// Vectors of 16 floats in one register of AVX-512. vectors.h tells what each function is for.
#pragma once

#include <immintrin.h>

#include <cstdint>

using Floats = __m512;
using Register = __m512;
constexpr int REGISTER = 16;  // floats in it
constexpr int SUMS = 24;      // registers of 32 that hold the sums of a product

inline __mmask16 first_lanes(int64_t count) { return count >= 16 ? 0xffff : (__mmask16)((1u << count) - 1); }

inline Floats spread(float x) { return _mm512_set1_ps(x); }
inline Floats load(const float *from) { return _mm512_loadu_ps(from); }
inline Floats load(const uint16_t *from) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)); }
inline Floats load_first(const float *from, int64_t count) { return _mm512_maskz_loadu_ps(first_lanes(count), from); }

inline void store(float *to, Floats x) { _mm512_storeu_ps(to, x); }
inline void store(uint16_t *to, Floats x) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_first(float *to, int64_t count, Floats x) { _mm512_mask_storeu_ps(to, first_lanes(count), x); }

inline Floats first_or(Floats x, int64_t count, Floats otherwise) {
    return _mm512_mask_blend_ps(first_lanes(count), otherwise, x);
}

inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats magnitude(Floats x) { return _mm512_abs_ps(x); }
inline Floats nearest(Floats x) { return _mm512_roundscale_ps(x, 0); }
inline Floats times_power_of_2(Floats x, Floats power) { return _mm512_scalef_ps(x, power); }
inline float sum(Floats x) { return _mm512_reduce_add_ps(x); }
inline float largest(Floats x) { return _mm512_reduce_max_ps(x); }

inline Register spread_register(float x) { return _mm512_set1_ps(x); }
inline Register spread_bits(int32_t bits) { return (__m512)_mm512_set1_epi32(bits); }
inline Register load_register(const float *from) { return _mm512_loadu_ps(from); }
inline void store_register(float *to, Register x) { _mm512_storeu_ps(to, x); }
