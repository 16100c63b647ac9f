// The variant for any processor: one block, or 8 pixels, at a time, in plain loops that a compiler may vectorise.
#include <algorithm>
#include <cstring>

#include "kernels.h"

namespace understudy {
namespace {

struct Scalar {
  static constexpr int kGroup = 1, kLanes = 8, kWindow = 16, kStep = 8;
  struct Words {
    int16_t at[8];
  };
  struct Pairs {
    Words first, second;
  };
  struct Ints {
    int32_t at[8];
  };

  template <class Result, class Function>
  static Result map(Function function) {
    Result result;
    for (int i = 0; i < 8; i++) result.at[i] = function(i);
    return result;
  }
  static int16_t wrap(int a) { return static_cast<int16_t>(a); }
  static int16_t saturate(int a) { return static_cast<int16_t>(std::min(std::max(a, -32768), 32767)); }

  static Words load(const int16_t* p) {
    return map<Words>([=](int i) { return p[i]; });
  }
  static void store(int16_t* p, const Words& a) { std::memcpy(p, a.at, sizeof a.at); }
  static Words set(int16_t a) {
    return map<Words>([=](int) { return a; });
  }
  static Words broadcast(const uint16_t* p) {
    return map<Words>([=](int i) { return wrap(p[i]); });
  }
  static Words add(const Words& a, const Words& b) {
    return map<Words>([&](int i) { return wrap(a.at[i] + b.at[i]); });
  }
  static Words subtract(const Words& a, const Words& b) {
    return map<Words>([&](int i) { return wrap(a.at[i] - b.at[i]); });
  }
  static Words multiply(const Words& a, const Words& b) {
    return map<Words>([&](int i) { return wrap(a.at[i] * b.at[i]); });
  }
  static Words add_sat(const Words& a, const Words& b) {
    return map<Words>([&](int i) { return saturate(a.at[i] + b.at[i]); });
  }
  static Words subtract_sat(const Words& a, const Words& b) {
    return map<Words>([&](int i) { return saturate(a.at[i] - b.at[i]); });
  }
  static Words scale(const Words& a, const Words& b) {
    return map<Words>([&](int i) { return wrap((a.at[i] * b.at[i] + (1 << 14)) >> 15); });
  }

  static Pairs zip(const Words& a, const Words& b) { return {a, b}; }
  static Ints dot(const Pairs& a, int p, int q) {
    return map<Ints>([&](int i) { return a.first.at[i] * p + a.second.at[i] * q; });
  }
  static Ints set_ints(int a) {
    return map<Ints>([=](int) { return a; });
  }
  // Sums of four products and a rounding term; corrupt streams may take them over 32 bits, as they do vectors.
  static Ints add(const Ints& a, const Ints& b) {
    return map<Ints>([&](int i) { return static_cast<int32_t>(uint32_t(a.at[i]) + uint32_t(b.at[i])); });
  }
  static Ints subtract(const Ints& a, const Ints& b) {
    return map<Ints>([&](int i) { return static_cast<int32_t>(uint32_t(a.at[i]) - uint32_t(b.at[i])); });
  }
  template <int kShift>
  static Words narrow(const Ints& a) {
    return map<Words>([&](int i) { return saturate(a.at[i] >> kShift); });
  }

  static void transpose(Words (&r)[8]) {
    for (int i = 0; i < 8; i++) {
      for (int j = 0; j < i; j++) std::swap(r[i].at[j], r[j].at[i]);
    }
  }

  static uint8_t to_byte(int16_t a) { return static_cast<uint8_t>(std::min<int>(std::max<int>(a, 0), 255)); }

  static void store_pixels(const Words (&columns)[8], uint8_t* out, ptrdiff_t stride) {
    for (int i = 0; i < 8; i++) {
      for (int j = 0; j < 8; j++) out[i * stride + j] = to_byte(columns[j].at[i]);
    }
  }

  static int slot(int o) { return o; }

  static Words weigh(const uint8_t* row, const Columns& columns, int s, ptrdiff_t pair) {
    const uint8_t *window = row + columns.base[s / 8], *index = columns.index + pair + 2 * s;
    const int8_t* weights = columns.weights + pair + 2 * s;
    return map<Words>([=](int i) {
      return wrap(window[index[2 * i]] * weights[2 * i] + window[index[2 * i + 1]] * weights[2 * i + 1]);
    });
  }

  template <bool>
  static void store_rgb(const Words (&r)[1], const Words (&g)[1], const Words (&b)[1], const Rgb& out, int n) {
    for (int i = 0; i < std::min(n, 8); i++) {
      out.red[i] = to_byte(r[0].at[i]);
      out.green[i] = to_byte(g[0].at[i]);
      out.blue[i] = to_byte(b[0].at[i]);
    }
  }
};

}  // namespace

const Simd kSimdScalar = make_simd<Scalar>("scalar");

}  // namespace understudy
