// The variant for x86-64 processors with AVX2 and BMI2: two blocks, or 32 pixels, at a time.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

// Not after the next lines: what other files share must not be compiled for instructions that they can't rely on.
#include "simd.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,bmi,bmi2")
#endif

#include "kernels.h"

namespace understudy {
namespace {

struct Avx2 {
  static constexpr int kGroup = 2, kLanes = 8, kWindow = 16, kStep = 32;
  using Words = __m256i;
  struct Pairs {
    __m256i low, high;
  };
  using Ints = Pairs;

  static Words load(const int16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static void store(int16_t* p, Words a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
  static Words set(int16_t a) { return _mm256_set1_epi16(a); }
  static Words broadcast(const uint16_t* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Words add(Words a, Words b) { return _mm256_add_epi16(a, b); }
  static Words subtract(Words a, Words b) { return _mm256_sub_epi16(a, b); }
  static Words multiply(Words a, Words b) { return _mm256_mullo_epi16(a, b); }
  static Words add_sat(Words a, Words b) { return _mm256_adds_epi16(a, b); }
  static Words subtract_sat(Words a, Words b) { return _mm256_subs_epi16(a, b); }
  static Words scale(Words a, Words b) { return _mm256_mulhrs_epi16(a, b); }

  static Pairs zip(Words a, Words b) { return {_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)}; }
  static Ints dot(Pairs a, int p, int q) {
    const __m256i factors = _mm256_set1_epi32(static_cast<int>(static_cast<unsigned>(q) << 16 | (p & 0xffff)));
    return {_mm256_madd_epi16(a.low, factors), _mm256_madd_epi16(a.high, factors)};
  }
  static Ints set_ints(int a) { return {_mm256_set1_epi32(a), _mm256_set1_epi32(a)}; }
  static Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
  static Ints subtract(Ints a, Ints b) { return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}; }
  template <int kShift>
  static Words narrow(Ints a) {
    return _mm256_packs_epi32(_mm256_srai_epi32(a.low, kShift), _mm256_srai_epi32(a.high, kShift));
  }

  static void transpose(Words (&r)[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 4; i++) {
      a[2 * i] = _mm256_unpacklo_epi16(r[i], r[i + 4]);
      a[2 * i + 1] = _mm256_unpackhi_epi16(r[i], r[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
      b[2 * i] = _mm256_unpacklo_epi16(a[i], a[i + 4]);
      b[2 * i + 1] = _mm256_unpackhi_epi16(a[i], a[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
      r[2 * i] = _mm256_unpacklo_epi16(b[i], b[i + 4]);
      r[2 * i + 1] = _mm256_unpackhi_epi16(b[i], b[i + 4]);
    }
  }

  static void store_pixels(const Words (&columns)[8], uint8_t* out, ptrdiff_t stride) {
    __m256i a[4], b[4];
    for (int i = 0; i < 4; i++) a[i] = _mm256_packus_epi16(columns[i], columns[i + 4]);
    for (int i = 0; i < 2; i++) {
      b[2 * i] = _mm256_unpacklo_epi8(a[i], a[i + 2]);
      b[2 * i + 1] = _mm256_unpackhi_epi8(a[i], a[i + 2]);
    }
    // Rows 0 to 3 and 4 to 7 of the columns 0 to 3, then of the columns 4 to 7.
    const __m256i left[2] = {_mm256_unpacklo_epi8(b[0], b[2]), _mm256_unpackhi_epi8(b[0], b[2])};
    const __m256i right[2] = {_mm256_unpacklo_epi8(b[1], b[3]), _mm256_unpackhi_epi8(b[1], b[3])};
    for (int i = 0; i < 2; i++) {
      store_two_rows(_mm256_unpacklo_epi32(left[i], right[i]), out + 4 * i * stride, stride);
      store_two_rows(_mm256_unpackhi_epi32(left[i], right[i]), out + (4 * i + 2) * stride, stride);
    }
  }

  // `rows` has two rows of 8 pixels of one block, then of the other.
  static void store_two_rows(__m256i rows, uint8_t* out, ptrdiff_t stride) {
    const __m256i sorted = _mm256_permute4x64_epi64(rows, 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(sorted));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + stride), _mm256_extracti128_si256(sorted, 1));
  }

  // Packing words to bytes goes by halves of vectors: in this order of groups of 8 outputs, it gives bytes in order.
  static constexpr int kOrder[4] = {0, 2, 1, 3};
  static int slot(int o) { return o / 32 * 32 + kOrder[o / 8 % 4] * 8 + o % 8; }

  static Words weigh(const uint8_t* row, const Columns& columns, int s, ptrdiff_t pair) {
    const int32_t* base = columns.base + s / 32 * 4 + s / 16 % 2;
    const __m256i samples = _mm256_shuffle_epi8(halves(row + base[0], row + base[2]), bytes_at(columns.index + pair + 2 * s));
    return _mm256_maddubs_epi16(samples, bytes_at(columns.weights + pair + 2 * s));
  }

  static __m256i bytes_at(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

  static __m256i halves(const void* low, const void* high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(low))),
                                   _mm_loadu_si128(static_cast<const __m128i*>(high)), 1);
  }

  template <bool kStream>
  static void store_rgb(const Words (&r)[2], const Words (&g)[2], const Words (&b)[2], const Rgb& out, int n) {
    store_bytes<kStream>(out.red, _mm256_packus_epi16(r[0], r[1]), n);
    store_bytes<kStream>(out.green, _mm256_packus_epi16(g[0], g[1]), n);
    store_bytes<kStream>(out.blue, _mm256_packus_epi16(b[0], b[1]), n);
  }

  template <bool kStream>
  static void store_bytes(uint8_t* out, __m256i bytes, int n) {
    if (kStream) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(out), bytes);
    } else if (n >= 32) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bytes);
    } else {
      uint8_t all[32];
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(all), bytes);
      std::memcpy(out, all, static_cast<size_t>(n));
    }
  }
};

}  // namespace

const Simd kSimdAvx2 = make_simd<Avx2>("avx2");

}  // namespace understudy

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
