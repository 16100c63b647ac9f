// Decodes the part of baseline JPEGs that is wanted, to its Y'CbCr planes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "buffer.h"
#include "jpeg_header.h"
#include "picture.h"
#include "reason.h"
#include "simd.h"

namespace understudy {

struct Bytes {
  const uint8_t* data;
  size_t size;
};

// One thread's decoder, with the memory and the Huffman tables that the next pictures will need again.
class JpegDecoder {
 public:
  static constexpr int kTogether = 2;

  // Of `count` JPEGs, at most kTogether, of width x height pixels, decodes what it takes to know `region`, whose pixels
  // are then those that libjpeg gives; others in `pictures` may be of earlier pictures. They are valid until the next
  // call, and each of their rows can be read for 64 bytes beyond its width. A JPEG that does not end with its scan is
  // refused whole, as is one that is corrupt in what is decoded of it. Tells why the first bad one is refused. Throws
  // std::bad_alloc.
  Reason decode(const Bytes* jpegs, int count, int width, int height, const Region& region, const Simd& simd,
                Picture* pictures);

 private:
  // Huffman tables, of what they were built, and when they were used last.
  struct Tables {
    HuffmanSpec dc, ac;
    BlockTables built;
    uint64_t used = 0;
  };

  // One of the pictures.
  struct Frame {
    JpegHeader header;
    const BlockTables* tables[3];
    Buffer<uint8_t> scan;            // without the zeros that follow each 0xff
    std::vector<size_t> intervals;   // where in `scan` each restart interval starts, and where the last ends
    Buffer<int16_t> coefficients;    // of the blocks of a row of MCUs that are kept; 0 between rows
    Buffer<int16_t> discarded;       // of those that are not; anything
    std::vector<Block> kept, skipped;  // the blocks of a row of MCUs that is wanted, and of one that is not
    int16_t* rows[4];                // in `coefficients`, the upper and the lower row of luma blocks, Cb, Cr
    Buffer<uint8_t> planes[3];
    ptrdiff_t strides[3];
    int16_t dc[3];
  };

  // Which MCUs are wanted of a picture of columns x rows.
  struct Grid {
    int columns, rows, left, right, top, bottom;
  };

  Reason prepare(const Bytes& jpeg, int width, int height, const Grid& grid, const Simd& simd, Frame& frame);
  bool find_tables(Frame& frame);
  bool decode_rows(const Grid& grid, const Simd& simd, Frame* const* frames, int count);
  bool decode_restarting(const Grid& grid, const Simd& simd, Frame& frame);

  static bool unstuff(const uint8_t* data, size_t size, size_t pad, Frame& frame);
  static void place_blocks(const Grid& grid, const Simd& simd, Frame& frame);
  static void sum_dc(const Block* blocks, int first, int count, int16_t dc[3]);
  static void transform_row(const Grid& grid, int row, const Simd& simd, Frame& frame);

  Frame frames_[kTogether];
  Tables tables_[3 * kTogether];
  uint64_t calls_ = 0;
};

}  // namespace understudy
