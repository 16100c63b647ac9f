// The segments of a baseline JPEG before its scan.
#pragma once

#include <cstddef>
#include <cstdint>

#include "huffman.h"
#include "reason.h"

namespace understudy {

struct JpegHeader {
  uint16_t quant[4][64];        // in natural order
  HuffmanSpec dc[4], ac[4];
  struct {
    int quant, dc, ac;          // which tables
  } component[3];
  unsigned restart_interval;    // in MCUs; 0 if there are no restarts
  size_t scan;                  // where the entropy-coded data starts
};

// Reads the `size` bytes of `data` up to the scan. Anything but a Y'CbCr picture of width x height with 4:2:0 chroma, 8
// bits, Huffman codes and one baseline scan is refused, before any memory is needed for it.
Reason read_jpeg_header(const uint8_t* data, size_t size, int width, int height, JpegHeader& header);

}  // namespace understudy
