// Feeds the kernel's C interface with whatever comes, under AddressSanitizer and UndefinedBehaviorSanitizer, and checks
// what it promises: zeros where it tells a reason, and the same bytes from all variants.
//
// An input starts with kPrefix bytes that say what is asked; the rest is what was stored. See seeds.py.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../../loader/kernel/kernel.h"

namespace {

constexpr size_t kPrefix = 32;

enum Flags {
  kTwoFrames = 1,    // the stream is two frames, cut where bytes 6 and 7 say
  kRawOffsets = 2,   // the last bytes are the offsets, as they are
  kRawNumbers = 4,   // crops and frames are taken as they are, inside the video or not
  kPlanes = 8,       // decoded planes instead of JPEGs
};

#define CHECK(condition) \
  if (!(condition)) {    \
    std::fprintf(stderr, "broken promise: %s\n", #condition); \
    std::abort();        \
  }

struct Asked {
  int width, height, size, views, frames, flags, cut;
  int32_t crops[4 * 3], indices[4];
  uint8_t flips[3];
};

Asked read_prefix(const uint8_t* p) {
  Asked asked;
  asked.width = 1 + p[0] % 80;
  asked.height = 1 + p[1] % 80;
  asked.size = 1 + p[2] % 72;
  asked.views = 1 + p[3] % 3;
  asked.frames = 1 + p[4] % 4;
  asked.flags = p[5];
  asked.cut = p[6] | p[7] << 8;
  for (int view = 0; view < 3; view++) {
    int32_t* crop = asked.crops + 4 * view;
    const uint8_t* box = p + 8 + 4 * view;
    if (asked.flags & kRawNumbers) {
      for (int i = 0; i < 4; i++) crop[i] = static_cast<int32_t>(box[i] * 0x01010101u) >> (box[i] % 32);
    } else {
      crop[0] = box[0] % asked.width;
      crop[1] = box[1] % asked.height;
      crop[2] = 1 + box[2] % (asked.width - crop[0]);
      crop[3] = 1 + box[3] % (asked.height - crop[1]);
    }
    asked.flips[view] = p[20 + view] & 1;
  }
  for (int t = 0; t < 4; t++) {
    const int limit = asked.flags & kTwoFrames ? 2 : 1;
    asked.indices[t] = asked.flags & kRawNumbers ? static_cast<int8_t>(p[24 + t]) : p[24 + t] % limit;
  }
  return asked;
}

int32_t decode(const Asked& asked, const std::vector<uint8_t>& stream, const std::vector<uint8_t>& offsets, int variant,
               std::vector<uint8_t>& out) {
  const UnderstudyClip clip{stream.data(),
                            static_cast<int64_t>(stream.size()),
                            offsets.data(),
                            static_cast<int64_t>(offsets.size()),
                            asked.indices,
                            asked.crops,
                            asked.flips,
                            asked.width,
                            asked.height};
  int32_t reason = -1;
  understudy_decode_clips(&clip, 1, asked.views, asked.frames, asked.size, variant, 0, out.data(), &reason);
  return reason;
}

int32_t crop(const Asked& asked, const std::vector<uint8_t>& data, int variant, std::vector<uint8_t>& out) {
  UnderstudyFrame frame;
  for (int i = 0; i < 3; i++) {
    frame.data[i] = data.data();
    frame.bytes[i] = static_cast<int64_t>(data.size());
    frame.stride[i] = asked.flags & kRawNumbers ? asked.indices[i] : asked.width + asked.cut % 64;
  }
  const UnderstudyVideo video{asked.width, asked.height, 0.299, 0.114, asked.cut & 1, asked.cut & 2};
  const int32_t places[4] = {};
  return understudy_crop_frames(&frame, 1, asked.flags & kRawNumbers ? asked.indices : places, &video, asked.crops,
                                asked.flips, asked.views, asked.frames, asked.size, variant, out.data());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kPrefix) return 0;
  const Asked asked = read_prefix(data);
  // Copies of the exact sizes, so that a read beyond their ends is found.
  std::vector<uint8_t> stream(data + kPrefix, data + size), offsets;
  if (asked.flags & kRawOffsets) {
    const size_t held = std::min<size_t>(stream.size(), 8 + asked.cut % 25);
    offsets.assign(stream.end() - static_cast<std::ptrdiff_t>(held), stream.end());
    stream.resize(stream.size() - held);
  } else {
    std::vector<int64_t> numbers{0, static_cast<int64_t>(stream.size())};
    if (asked.flags & kTwoFrames) numbers.insert(numbers.begin() + 1, asked.cut);
    offsets.resize(numbers.size() * 8);
    std::memcpy(offsets.data(), numbers.data(), offsets.size());
  }
  stream.shrink_to_fit();
  offsets.shrink_to_fit();

  const size_t bytes = static_cast<size_t>(asked.views) * 3 * asked.frames * asked.size * asked.size;
  std::vector<uint8_t> first;
  int32_t first_reason = 0;
  for (int variant = 0; understudy_variant(variant); variant++) {
    std::vector<uint8_t> out(bytes, 0xa5);
    const int32_t reason = asked.flags & kPlanes ? crop(asked, stream, variant, out)
                                                 : decode(asked, stream, offsets, variant, out);
    if (reason != 0) {
      CHECK(understudy_reason(reason) != nullptr);
      CHECK(std::all_of(out.begin(), out.end(), [](uint8_t byte) { return byte == 0; }));
    }
    if (variant == 0) {
      first = out;
      first_reason = reason;
    }
    CHECK(reason == first_reason);
    CHECK(out == first);
  }
  return 0;
}
