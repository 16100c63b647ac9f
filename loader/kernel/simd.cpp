#include "simd.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the bit reader and the offsets of the shards are little-endian"
#endif

namespace understudy {

const Simd* const* simd_variants() {
  static const struct List {
    const Simd* at[4] = {};

    List() {
      int n = 0;
#if defined(__x86_64__)
      const bool bits = __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
      if (bits && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi")) {
        at[n++] = &kSimdAvx512;
      }
      if (bits && __builtin_cpu_supports("avx2")) at[n++] = &kSimdAvx2;
#elif defined(__aarch64__)
      at[n++] = &kSimdNeon;
#endif
      at[n++] = &kSimdScalar;
    }
  } list;
  return list.at;
}

}  // namespace understudy
