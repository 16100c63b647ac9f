// The C interface of the library, which loader/native.py calls through ctypes. A change of anything here is a change of
// kAbiVersion.
#pragma once

#include <cstdint>

#if defined(__GNUC__)
#define UNDERSTUDY_EXPORT extern "C" __attribute__((visibility("default")))
#else
#define UNDERSTUDY_EXPORT extern "C"
#endif

constexpr int32_t kAbiVersion = 2;

// One clip out of a sample of concatenated JPEGs. `frames` has T indices, `crops` K boxes (x, y, width, height), `flips`
// K bytes. `offsets` are little-endian int64, not necessarily aligned.
struct UnderstudyClip {
  const uint8_t* stream;
  int64_t stream_bytes;
  const uint8_t* offsets;
  int64_t offsets_bytes;
  const int32_t* frames;
  const int32_t* crops;
  const uint8_t* flips;
  int32_t width, height;
};

// One decoded 4:2:0 frame: for Y, Cb, Cr where it lies, how many bytes that is and how many from row to row.
struct UnderstudyFrame {
  const uint8_t* data[3];
  int64_t bytes[3];
  int64_t stride[3];
};

// What the frames of a video are like: `red` and `blue` are what these count in luma.
struct UnderstudyVideo {
  int32_t width, height;
  double red, blue;
  int32_t full_range;
  int32_t chroma_in_the_middle;  // of four pixels, or else of the left two
};

UNDERSTUDY_EXPORT int32_t understudy_abi_version();

// The name of variant 0, 1, ..., the fastest first; null after the last that this processor can run.
UNDERSTUDY_EXPORT const char* understudy_variant(int32_t variant);

// What a number in `reasons` means; null for 0 and for what is not one.
UNDERSTUDY_EXPORT const char* understudy_reason(int32_t reason);

// How many threads decode clips at a time, callers included. By default one for each processor.
UNDERSTUDY_EXPORT void understudy_set_threads(int32_t threads);

// Decodes `n` clips into `out`, uint8 (n, views, 3, frames, size, size), and tells for each in `reasons` 0 or why its part
// of `out` is zeros. Other threads help while fewer than `threads` decode clips, for this call or another; 0 for as many
// as there may be.
UNDERSTUDY_EXPORT void understudy_decode_clips(const UnderstudyClip* clips, int64_t n, int32_t views, int32_t frames,
                                               int32_t size, int32_t variant, int32_t threads, uint8_t* out,
                                               int32_t* reasons);

// The crops of one clip out of `held` decoded frames: frame t of the clip is number places[t] of them. `out` is uint8
// (views, 3, frames, size, size). Returns 0 or why it is zeros.
UNDERSTUDY_EXPORT int32_t understudy_crop_frames(const UnderstudyFrame* decoded, int32_t held, const int32_t* places,
                                                 const UnderstudyVideo* video, const int32_t* crops,
                                                 const uint8_t* flips, int32_t views, int32_t frames, int32_t size,
                                                 int32_t variant, uint8_t* out);
