#include "kernel.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <vector>

#include "colour.h"
#include "pool.h"

namespace understudy {
namespace {

constexpr int kMaxSide = 1 << 14;  // of a picture, so that no size here overflows

const char* const kReasons[static_cast<int>(Reason::kCount)] = {
    nullptr,
    "offsets: not int64 numbers",
    "offsets: do not fit the frames",
    "frames: fewer than the corpus says",
    "size: not what the corpus says",
    "crop: not inside the frame",
    "jpeg: not a baseline 4:2:0 JPEG of one scan",
    "jpeg: does not decode",
    "video: not decoded to planes of its size",
    "decoder: out of memory",
};

struct Shape {
  int views, frames, size;

  int64_t plane() const { return static_cast<int64_t>(frames) * size * size; }  // from red to green, or green to blue
  int64_t view() const { return 3 * plane(); }
  int64_t clip() const { return views * view(); }
  bool empty() const { return views < 1 || frames < 1 || size < 1; }
};

Crop crop_at(const int32_t* boxes, const uint8_t* flips, int view) {
  const int32_t* box = boxes + 4 * view;
  return {box[0], box[1], box[2], box[3], flips[view] != 0};
}

Reason check_crops(const int32_t* boxes, const uint8_t* flips, int views, int width, int height) {
  if (width < 1 || height < 1 || width > kMaxSide || height > kMaxSide) return Reason::kSize;
  for (int view = 0; view < views; view++) {
    const Crop crop = crop_at(boxes, flips, view);
    if (crop.x < 0 || crop.y < 0 || crop.width < 1 || crop.height < 1 || crop.x > width - crop.width ||
        crop.y > height - crop.height) {
      return Reason::kCrops;
    }
  }
  return Reason::kNone;
}

Region region_of(const int32_t* boxes, const uint8_t* flips, int views) {
  Region region{kMaxSide, kMaxSide, 0, 0};
  for (int view = 0; view < views; view++) {
    const Crop crop = crop_at(boxes, flips, view);
    region.left = std::min(region.left, crop.x);
    region.top = std::min(region.top, crop.y);
    region.right = std::max(region.right, crop.x + crop.width);
    region.bottom = std::max(region.bottom, crop.y + crop.height);
  }
  return region;
}

void prepare_plans(std::vector<CropPlan>& plans, const int32_t* boxes, const uint8_t* flips, const Layout& layout,
                   const Shape& shape, const Simd& simd) {
  if (plans.size() < static_cast<size_t>(shape.views)) plans.resize(static_cast<size_t>(shape.views));
  for (int view = 0; view < shape.views; view++) {
    plans[static_cast<size_t>(view)].prepare(crop_at(boxes, flips, view), layout, shape.size, simd);
  }
}

void crop_picture(Scratch& scratch, const Picture& picture, const Colour& colour, const Shape& shape, int frame,
                  const Simd& simd, uint8_t* out) {
  out += static_cast<int64_t>(frame) * shape.size * shape.size;
  for (int view = 0; view < shape.views; view++, out += shape.view()) {
    scratch.plans[static_cast<size_t>(view)].run(picture, colour, simd, scratch.rows, out, shape.plane());
  }
}

// Stores past the caches are not in the order that threads rely on: this waits for them.
void finish_stores() { std::atomic_thread_fence(std::memory_order_seq_cst); }

// Makes frame `to` of all views what frame `from` is.
void copy_frame(const Shape& shape, int from, int to, uint8_t* out) {
  const int64_t frame = static_cast<int64_t>(shape.size) * shape.size;
  for (int64_t plane = 0; plane < 3 * shape.views; plane++, out += shape.plane()) {
    std::memcpy(out + to * frame, out + from * frame, static_cast<size_t>(frame));
  }
}

int64_t offset_at(const UnderstudyClip& clip, int64_t i) {
  int64_t offset;
  std::memcpy(&offset, clip.offsets + 8 * i, 8);
  return offset;
}

// Whether the clip's numbers make sense; says nothing of its JPEGs.
Reason check_clip(const UnderstudyClip& clip, const Shape& shape) {
  if (clip.offsets_bytes % 8 || clip.offsets_bytes < 16) return Reason::kOffsets;
  const int64_t frames = clip.offsets_bytes / 8 - 1;
  if (offset_at(clip, 0) != 0 || offset_at(clip, frames) != clip.stream_bytes) return Reason::kOffsetsOrder;
  for (int64_t i = 0; i < frames; i++) {
    if (offset_at(clip, i) >= offset_at(clip, i + 1)) return Reason::kOffsetsOrder;
  }
  for (int t = 0; t < shape.frames; t++) {
    if (clip.frames[t] < 0 || clip.frames[t] >= frames) return Reason::kFrames;
  }
  return check_crops(clip.crops, clip.flips, shape.views, clip.width, clip.height);
}

// Decodes part `part` of `parts` of the clip's frames, into their places of `out`.
Reason decode_part(const UnderstudyClip& clip, const Shape& shape, int part, int parts, const Simd& simd,
                   const Colour& colour, Scratch& scratch, uint8_t* out) {
  const Region region = region_of(clip.crops, clip.flips, shape.views);
  // In the order of the stored frames, so that one that is wanted again is next.
  std::vector<int>& order = scratch.order;
  order.resize(static_cast<size_t>(shape.frames));
  for (int t = 0; t < shape.frames; t++) order[static_cast<size_t>(t)] = t;
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return clip.frames[a] < clip.frames[b]; });
  const auto begin = static_cast<size_t>(static_cast<int64_t>(shape.frames) * part / parts);
  const auto end = static_cast<size_t>(static_cast<int64_t>(shape.frames) * (part + 1) / parts);
  const auto repeats = [&](size_t i) { return i > begin && clip.frames[order[i]] == clip.frames[order[i - 1]]; };

  bool planned = false;
  for (size_t i = begin; i < end;) {
    int wanted[JpegDecoder::kTogether], count = 0;
    Bytes jpegs[JpegDecoder::kTogether];
    Picture pictures[JpegDecoder::kTogether];
    for (; i < end && count < JpegDecoder::kTogether; i++) {
      if (repeats(i)) continue;
      const int64_t from = offset_at(clip, clip.frames[order[i]]), to = offset_at(clip, clip.frames[order[i]] + 1);
      jpegs[count] = {clip.stream + from, static_cast<size_t>(to - from)};
      wanted[count++] = order[i];
    }
    if (count == 0) break;  // only repeats were left
    const Reason reason = scratch.jpeg.decode(jpegs, count, clip.width, clip.height, region, simd, pictures);
    if (reason != Reason::kNone) return reason;
    if (!planned) {
      const Plane* planes = pictures[0].plane;
      const Layout layout{clip.width, clip.height, planes[0].stride, planes[1].stride, true};
      prepare_plans(scratch.plans, clip.crops, clip.flips, layout, shape, simd);
      planned = true;
    }
    for (int n = 0; n < count; n++) crop_picture(scratch, pictures[n], colour, shape, wanted[n], simd, out);
  }
  for (size_t i = begin; i < end; i++) {
    if (repeats(i)) copy_frame(shape, order[i - 1], order[i], out);
  }
  return Reason::kNone;
}

const Simd& variant_at(int variant) {
  const Simd* const* variants = simd_variants();
  for (int i = 0; i < variant && variants[1]; i++) variants++;
  return **variants;
}

void decode_clips(const UnderstudyClip* clips, int64_t n, const Shape& shape, const Simd& simd, int threads,
                  uint8_t* out, int32_t* reasons) {
  const Colour colour = make_colour(0.299, 0.114, true);
  Pool& pool = Pool::instance();
  // Whole clips are the cheapest to work on; parts of them share out better, where there are few clips for each thread.
  const int64_t wanted = pool.has_room(threads) ? 8 * std::min(threads, Pool::threads()) : 1;
  const int parts = static_cast<int>(std::clamp<int64_t>((wanted + n - 1) / n, 1, std::max(1, shape.frames / 4)));

  // By part, and a part is only left out after one before it failed: the first one's reason is told, whichever thread
  // came first.
  std::vector<Reason> results(static_cast<size_t>(n * parts), Reason::kNone);
  std::vector<std::atomic<int>> failed(static_cast<size_t>(n));  // the first part that did; -1: none of it can be used
  for (int64_t i = 0; i < n; i++) {
    results[static_cast<size_t>(i * parts)] = check_clip(clips[i], shape);
    failed[static_cast<size_t>(i)] = results[static_cast<size_t>(i * parts)] != Reason::kNone ? -1 : parts;
  }
  pool.run(n * parts, threads, [&](int64_t item, Scratch& scratch) {
    const int64_t i = item / parts;
    const int part = static_cast<int>(item % parts);
    std::atomic<int>& first = failed[static_cast<size_t>(i)];
    if (first < part) return;
    Reason& result = results[static_cast<size_t>(item)];
    try {
      result = decode_part(clips[i], shape, part, parts, simd, colour, scratch,
                           out + i * shape.clip());
    } catch (const std::exception&) {
      result = Reason::kMemory;
    }
    finish_stores();
    if (result == Reason::kNone) return;
    for (int known = first; part < known && !first.compare_exchange_weak(known, part);) {
    }
  });
  for (int64_t i = 0; i < n; i++) {
    const auto begin = results.begin() + i * parts;
    const auto found = std::find_if(begin, begin + parts, [](Reason r) { return r != Reason::kNone; });
    reasons[i] = found == begin + parts ? 0 : static_cast<int32_t>(*found);
    if (reasons[i]) std::memset(out + i * shape.clip(), 0, static_cast<size_t>(shape.clip()));
  }
}

// False where the planes are too small for the pictures that they are said to hold.
bool read_frame(const UnderstudyFrame& frame, int width, int height, Picture& picture) {
  for (int i = 0; i < 3; i++) {
    const int64_t columns = i ? (width + 1) / 2 : width, rows = i ? (height + 1) / 2 : height;
    const int64_t stride = frame.stride[i];
    if (!frame.data[i] || stride < columns || stride > INT32_MAX || frame.bytes[i] / stride < rows) return false;
    picture.plane[i] = {frame.data[i], static_cast<ptrdiff_t>(stride)};
  }
  return true;
}

Reason crop_frames(const UnderstudyFrame* decoded, int held, const int32_t* places, const UnderstudyVideo& video,
                   const int32_t* crops, const uint8_t* flips, const Shape& shape, const Simd& simd, Scratch& scratch,
                   uint8_t* out) {
  const Reason wrong = check_crops(crops, flips, shape.views, video.width, video.height);
  if (wrong != Reason::kNone) return wrong;
  const Colour colour = make_colour(video.red, video.blue, video.full_range != 0);
  std::vector<Picture> pictures(static_cast<size_t>(held));
  for (int i = 0; i < held; i++) {
    if (!read_frame(decoded[i], video.width, video.height, pictures[static_cast<size_t>(i)])) return Reason::kPlanes;
  }
  for (int t = 0; t < shape.frames; t++) {
    if (places[t] < 0 || places[t] >= held) return Reason::kFrames;
  }
  Layout layout{video.width, video.height, 0, 0, video.chroma_in_the_middle != 0};
  for (int t = 0; t < shape.frames; t++) {
    const int32_t* before = std::find(places, places + t, places[t]);
    if (before != places + t) {
      copy_frame(shape, static_cast<int>(before - places), t, out);
      continue;
    }
    const Picture& picture = pictures[static_cast<size_t>(places[t])];
    const int64_t luma_bytes = picture.plane[0].stride;
    const int64_t chroma_bytes = std::min(picture.plane[1].stride, picture.plane[2].stride);
    if (luma_bytes != layout.luma_bytes || chroma_bytes != layout.chroma_bytes) {
      layout.luma_bytes = luma_bytes;
      layout.chroma_bytes = chroma_bytes;
      prepare_plans(scratch.plans, crops, flips, layout, shape, simd);
    }
    crop_picture(scratch, picture, colour, shape, t, simd, out);
  }
  return Reason::kNone;
}

}  // namespace
}  // namespace understudy

using understudy::Reason;
using understudy::Shape;

int32_t understudy_abi_version() { return kAbiVersion; }

const char* understudy_variant(int32_t variant) {
  const understudy::Simd* const* variants = understudy::simd_variants();
  for (int32_t i = 0; *variants; i++, variants++) {
    if (i == variant) return (*variants)->name;
  }
  return nullptr;
}

const char* understudy_reason(int32_t reason) {
  return reason >= 0 && reason < static_cast<int32_t>(Reason::kCount) ? understudy::kReasons[reason] : nullptr;
}

void understudy_set_threads(int32_t threads) { understudy::Pool::set_threads(threads); }

void understudy_decode_clips(const UnderstudyClip* clips, int64_t n, int32_t views, int32_t frames, int32_t size,
                             int32_t variant, int32_t threads, uint8_t* out, int32_t* reasons) {
  const Shape shape{views, frames, size};
  if (n < 1) return;
  std::fill(reasons, reasons + n, 0);
  if (shape.empty()) return;
  try {
    understudy::decode_clips(clips, n, shape, understudy::variant_at(variant), threads > 0 ? threads : INT32_MAX,
                             out, reasons);
  } catch (const std::exception&) {
    std::fill(reasons, reasons + n, static_cast<int32_t>(Reason::kMemory));
    std::memset(out, 0, static_cast<size_t>(n * shape.clip()));
  }
}

int32_t understudy_crop_frames(const UnderstudyFrame* decoded, int32_t held, const int32_t* places,
                               const UnderstudyVideo* video, const int32_t* crops, const uint8_t* flips, int32_t views,
                               int32_t frames, int32_t size, int32_t variant, uint8_t* out) {
  const Shape shape{views, frames, size};
  if (shape.empty()) return 0;
  Reason reason = Reason::kMemory;
  const auto work = [&](int64_t, understudy::Scratch& scratch) {
    try {
      reason = understudy::crop_frames(decoded, held, places, *video, crops, flips, shape,
                                       understudy::variant_at(variant), scratch, out);
    } catch (const std::exception&) {
    }
    understudy::finish_stores();
  };
  try {
    understudy::Pool::instance().run(1, 1, work);
  } catch (const std::exception&) {
  }
  if (reason != Reason::kNone) std::memset(out, 0, static_cast<size_t>(shape.clip()));
  return static_cast<int32_t>(reason);
}
