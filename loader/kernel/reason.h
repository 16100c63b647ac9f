// Why a request failed.
#pragma once

namespace understudy {

enum class Reason {
  kNone,
  kOffsets,
  kOffsetsOrder,
  kFrames,
  kSize,
  kCrops,
  kJpegKind,
  kJpegCorrupt,
  kPlanes,
  kMemory,
  kCount,
};

}  // namespace understudy
