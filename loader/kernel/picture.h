// A decoded 4:2:0 picture, and the part of one that is wanted.
#pragma once

#include <cstddef>
#include <cstdint>

namespace understudy {

struct Plane {
  const uint8_t* data;
  ptrdiff_t stride;  // bytes from row to row; as many can be read of each row
};

// Y, Cb and Cr; the chroma planes have half the width and height, rounded up.
struct Picture {
  Plane plane[3];
};

// Columns [left, right) and rows [top, bottom) of luma, within the picture.
struct Region {
  int left, top, right, bottom;
};

}  // namespace understudy
