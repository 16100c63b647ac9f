// The variant for x86-64 processors with AVX-512 VBMI (Ice Lake, Zen 4 and later): four blocks, or 32 pixels, at a time.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

// Not after the next lines: what other files share must not be compiled for instructions that they can't rely on.
#include "simd.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,bmi,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512vbmi,bmi,bmi2")
#endif

#include "kernels.h"

namespace understudy {
namespace {

struct Avx512 {
  static constexpr int kGroup = 4, kLanes = 32, kWindow = 64, kStep = 32;
  using Words = __m512i;
  struct Pairs {
    __m512i low, high;
  };
  using Ints = Pairs;

  static Words load(const int16_t* p) { return _mm512_loadu_si512(p); }
  static void store(int16_t* p, Words a) { _mm512_storeu_si512(p, a); }
  static Words set(int16_t a) { return _mm512_set1_epi16(a); }
  static Words broadcast(const uint16_t* p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Words add(Words a, Words b) { return _mm512_add_epi16(a, b); }
  static Words subtract(Words a, Words b) { return _mm512_sub_epi16(a, b); }
  static Words multiply(Words a, Words b) { return _mm512_mullo_epi16(a, b); }
  static Words add_sat(Words a, Words b) { return _mm512_adds_epi16(a, b); }
  static Words subtract_sat(Words a, Words b) { return _mm512_subs_epi16(a, b); }
  static Words scale(Words a, Words b) { return _mm512_mulhrs_epi16(a, b); }

  static Pairs zip(Words a, Words b) { return {_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b)}; }
  static Ints dot(Pairs a, int p, int q) {
    const __m512i factors = _mm512_set1_epi32(static_cast<int>(static_cast<unsigned>(q) << 16 | (p & 0xffff)));
    return {_mm512_madd_epi16(a.low, factors), _mm512_madd_epi16(a.high, factors)};
  }
  static Ints set_ints(int a) { return {_mm512_set1_epi32(a), _mm512_set1_epi32(a)}; }
  static Ints add(Ints a, Ints b) { return {_mm512_add_epi32(a.low, b.low), _mm512_add_epi32(a.high, b.high)}; }
  static Ints subtract(Ints a, Ints b) { return {_mm512_sub_epi32(a.low, b.low), _mm512_sub_epi32(a.high, b.high)}; }
  template <int kShift>
  static Words narrow(Ints a) {
    return _mm512_packs_epi32(_mm512_srai_epi32(a.low, kShift), _mm512_srai_epi32(a.high, kShift));
  }

  static void transpose(Words (&r)[8]) {
    __m512i a[8], b[8];
    for (int i = 0; i < 4; i++) {
      a[2 * i] = _mm512_unpacklo_epi16(r[i], r[i + 4]);
      a[2 * i + 1] = _mm512_unpackhi_epi16(r[i], r[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
      b[2 * i] = _mm512_unpacklo_epi16(a[i], a[i + 4]);
      b[2 * i + 1] = _mm512_unpackhi_epi16(a[i], a[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
      r[2 * i] = _mm512_unpacklo_epi16(b[i], b[i + 4]);
      r[2 * i + 1] = _mm512_unpackhi_epi16(b[i], b[i + 4]);
    }
  }

  static void store_pixels(const Words (&columns)[8], uint8_t* out, ptrdiff_t stride) {
    __m512i a[4], b[4];
    for (int i = 0; i < 4; i++) a[i] = _mm512_packus_epi16(columns[i], columns[i + 4]);
    for (int i = 0; i < 2; i++) {
      b[2 * i] = _mm512_unpacklo_epi8(a[i], a[i + 2]);
      b[2 * i + 1] = _mm512_unpackhi_epi8(a[i], a[i + 2]);
    }
    // Rows 0 to 3 and 4 to 7 of the columns 0 to 3, then of the columns 4 to 7.
    const __m512i left[2] = {_mm512_unpacklo_epi8(b[0], b[2]), _mm512_unpackhi_epi8(b[0], b[2])};
    const __m512i right[2] = {_mm512_unpacklo_epi8(b[1], b[3]), _mm512_unpackhi_epi8(b[1], b[3])};
    for (int i = 0; i < 2; i++) {
      store_two_rows(_mm512_unpacklo_epi32(left[i], right[i]), out + 4 * i * stride, stride);
      store_two_rows(_mm512_unpackhi_epi32(left[i], right[i]), out + (4 * i + 2) * stride, stride);
    }
  }

  // `rows` has two rows of 8 pixels of each of the four blocks.
  static void store_two_rows(__m512i rows, uint8_t* out, ptrdiff_t stride) {
    const __m512i sorted = in_order(rows);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_castsi512_si256(sorted));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + stride), _mm512_extracti64x4_epi64(sorted, 1));
  }

  static int slot(int o) { return o; }

  static Words weigh(const uint8_t* row, const Columns& columns, int s, ptrdiff_t pair) {
    const __m512i samples = _mm512_permutexvar_epi8(_mm512_loadu_si512(columns.index + pair + 2 * s),
                                                    _mm512_loadu_si512(row + columns.base[s / 32]));
    return _mm512_maddubs_epi16(samples, _mm512_loadu_si512(columns.weights + pair + 2 * s));
  }

  template <bool kStream>
  static void store_rgb(const Words (&r)[1], const Words (&g)[1], const Words (&b)[1], const Rgb& out, int n) {
    const __m512i red_green = in_order(_mm512_packus_epi16(r[0], g[0])), blue = in_order(_mm512_packus_epi16(b[0], b[0]));
    store_bytes<kStream>(out.red, _mm512_castsi512_si256(red_green), n);
    store_bytes<kStream>(out.green, _mm512_extracti64x4_epi64(red_green, 1), n);
    store_bytes<kStream>(out.blue, _mm512_castsi512_si256(blue), n);
  }

  template <bool kStream>
  static void store_bytes(uint8_t* out, __m256i bytes, int n) {
    if (kStream) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(out), bytes);
    } else {
      _mm256_mask_storeu_epi8(out, n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1, bytes);
    }
  }

  // Packing goes by quarters of vectors: 8 bytes of one operand, 8 of the other. This puts those of each together.
  static __m512i in_order(__m512i packed) {
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), packed);
  }
};

}  // namespace

const Simd kSimdAvx512 = make_simd<Avx512>("avx512");

}  // namespace understudy

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
