// The variant for 64-bit ARM: one block, or 16 pixels, at a time.
#if defined(__aarch64__)

#include <arm_neon.h>

#include <cstring>

#include "kernels.h"

namespace understudy {
namespace {

struct Neon {
  static constexpr int kGroup = 1, kLanes = 8, kWindow = 16, kStep = 16;
  using Words = int16x8_t;
  struct Pairs {
    int16x8_t first, second;
  };
  struct Ints {
    int32x4_t low, high;
  };

  static Words load(const int16_t* p) { return vld1q_s16(p); }
  static void store(int16_t* p, Words a) { vst1q_s16(p, a); }
  static Words set(int16_t a) { return vdupq_n_s16(a); }
  static Words broadcast(const uint16_t* p) { return vreinterpretq_s16_u16(vld1q_u16(p)); }
  static Words add(Words a, Words b) { return vaddq_s16(a, b); }
  static Words subtract(Words a, Words b) { return vsubq_s16(a, b); }
  static Words multiply(Words a, Words b) { return vmulq_s16(a, b); }
  static Words add_sat(Words a, Words b) { return vqaddq_s16(a, b); }
  static Words subtract_sat(Words a, Words b) { return vqsubq_s16(a, b); }
  // Saturates only where both are -32768, which no factor here is.
  static Words scale(Words a, Words b) { return vqrdmulhq_s16(a, b); }

  static Pairs zip(Words a, Words b) { return {a, b}; }
  static Ints dot(Pairs a, int p, int q) {
    const int16_t first = static_cast<int16_t>(p), second = static_cast<int16_t>(q);
    return {vmlal_n_s16(vmull_n_s16(vget_low_s16(a.first), first), vget_low_s16(a.second), second),
            vmlal_n_s16(vmull_n_s16(vget_high_s16(a.first), first), vget_high_s16(a.second), second)};
  }
  static Ints set_ints(int a) { return {vdupq_n_s32(a), vdupq_n_s32(a)}; }
  static Ints add(Ints a, Ints b) { return {vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)}; }
  static Ints subtract(Ints a, Ints b) { return {vsubq_s32(a.low, b.low), vsubq_s32(a.high, b.high)}; }
  template <int kShift>
  static Words narrow(Ints a) {
    return vcombine_s16(vqmovn_s32(vshrq_n_s32(a.low, kShift)), vqmovn_s32(vshrq_n_s32(a.high, kShift)));
  }

  static void transpose(Words (&r)[8]) {
    int16x8_t a[8], b[8];
    for (int i = 0; i < 4; i++) {
      a[2 * i] = vzip1q_s16(r[i], r[i + 4]);
      a[2 * i + 1] = vzip2q_s16(r[i], r[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
      b[2 * i] = vzip1q_s16(a[i], a[i + 4]);
      b[2 * i + 1] = vzip2q_s16(a[i], a[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
      r[2 * i] = vzip1q_s16(b[i], b[i + 4]);
      r[2 * i + 1] = vzip2q_s16(b[i], b[i + 4]);
    }
  }

  static void store_pixels(const Words (&columns)[8], uint8_t* out, ptrdiff_t stride) {
    Words rows[8];
    for (int i = 0; i < 8; i++) rows[i] = columns[i];
    transpose(rows);
    for (int i = 0; i < 8; i++) vst1_u8(out + i * stride, vqmovun_s16(rows[i]));
  }

  static int slot(int o) { return o; }

  static Words weigh(const uint8_t* row, const Columns& columns, int s, ptrdiff_t pair) {
    const uint8x16_t window = vld1q_u8(row + columns.base[s / 8]);
    const uint8x16_t samples = vqtbl1q_u8(window, vld1q_u8(columns.index + pair + 2 * s));
    const uint8x16_t weights = vreinterpretq_u8_s8(vld1q_s8(columns.weights + pair + 2 * s));
    const uint16x8_t low = vmull_u8(vget_low_u8(samples), vget_low_u8(weights));
    const uint16x8_t high = vmull_u8(vget_high_u8(samples), vget_high_u8(weights));
    return vreinterpretq_s16_u16(vpaddq_u16(low, high));
  }

  template <bool>
  static void store_rgb(const Words (&r)[2], const Words (&g)[2], const Words (&b)[2], const Rgb& out, int n) {
    store_bytes(out.red, r, n);
    store_bytes(out.green, g, n);
    store_bytes(out.blue, b, n);
  }

  static void store_bytes(uint8_t* out, const Words (&words)[2], int n) {
    const uint8x16_t bytes = vcombine_u8(vqmovun_s16(words[0]), vqmovun_s16(words[1]));
    if (n >= 16) {
      vst1q_u8(out, bytes);
    } else {
      uint8_t all[16];
      vst1q_u8(all, bytes);
      std::memcpy(out, all, static_cast<size_t>(n));
    }
  }
};

}  // namespace

const Simd kSimdNeon = make_simd<Neon>("neon");

}  // namespace understudy

#endif
