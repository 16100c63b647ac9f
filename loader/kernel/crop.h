// Crops a picture, resizes the crop to a square and turns it into RGB, in one pass over its rows.
//
// The result is what comes of interpolating chroma for each pixel of luma, as libjpeg and libswscale do, and then
// resizing: bilinear, without antialiasing, with half-pixel centres and coordinates clamped inside the crop. All of that
// is linear, so that both steps are one weighted sum: along each axis of two luma samples, and of three chroma samples.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "picture.h"
#include "simd.h"

namespace understudy {

struct Taps;

struct Crop {
  int x, y, width, height;
  bool flip;
};

// What all pictures of a clip have in common. As many bytes as `luma_bytes` and `chroma_bytes` can be read of each row.
// Chroma samples lie in the middle of four pixels, as in JPEG, or else between the left two, as in MPEG video.
struct Layout {
  int width, height;
  int64_t luma_bytes, chroma_bytes;
  bool chroma_in_the_middle;
};

// The geometry of one crop, the same for all frames of a clip. May be prepared again and again.
class CropPlan {
 public:
  // The crop lies inside the picture. Throws std::bad_alloc.
  void prepare(const Crop& crop, const Layout& layout, int size, const Simd& simd);

  // Fills three planes of size x size, `plane` bytes apart. `room` is for rows. Throws std::bad_alloc.
  void run(const Picture& picture, const Colour& colour, const Simd& simd, Buffer<int16_t>& room, uint8_t* out,
           int64_t plane) const;

 private:
  struct ColumnTable {
    std::vector<int32_t> places, base;
    std::vector<int8_t> weights;
    std::vector<uint8_t> index;
    Columns view;

    void resize(int taps);
    void put(int at, const Taps& taps, int tap);
    void prepare(int size, int pairs, int64_t row_bytes, const Simd& simd);
  };
  // The output row is row `middle` and, as far as the weights of 32768 say, the rows beside it.
  struct RowTaps {
    int32_t middle;
    int16_t above, below;
  };

  int size_ = 0, last_chroma_row_ = 0;
  ColumnTable luma_columns_, chroma_columns_;
  std::vector<RowTaps> luma_rows_, chroma_rows_;
};

}  // namespace understudy
