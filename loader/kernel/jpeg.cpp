#include "jpeg.h"

#include <algorithm>
#include <cstring>

namespace understudy {
namespace {

// The most bytes that the six blocks of an MCU can take, with codes of 16 bits and values of 11.
constexpr size_t kMcuBytes = 6 * 64 * 27 / 8;

// The blocks of a 4:2:0 MCU: of which component, and where among those that lie in it.
constexpr int kMcuBlocks = 6;
constexpr struct {
  int component, column, row;
} kMcu[kMcuBlocks] = {{0, 0, 0}, {0, 1, 0}, {0, 0, 1}, {0, 1, 1}, {1, 0, 0}, {2, 0, 0}};

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

BitReader reader_at(const uint8_t* start) {
  BitReader reader;
  reader.next = start;
  return reader;
}

}  // namespace

Reason JpegDecoder::decode(const Bytes* jpegs, int count, int width, int height, const Region& region,
                           const Simd& simd, Picture* pictures) {
  // A crop's chroma is interpolated from pixels up to two of luma beyond its edges.
  const Grid grid{(width + 15) / 16,
                  (height + 15) / 16,
                  std::max(region.left - 2, 0) / 16,
                  (std::min(region.right + 2, width) + 15) / 16,
                  std::max(region.top - 2, 0) / 16,
                  (std::min(region.bottom + 2, height) + 15) / 16};
  calls_++;
  int prepared = 0;
  Reason refused = Reason::kNone;
  for (; prepared < count && refused == Reason::kNone; prepared++) {
    refused = prepare(jpegs[prepared], width, height, grid, simd, frames_[prepared]);
    for (int i = 0; i < 3; i++) {
      pictures[prepared].plane[i] = {frames_[prepared].planes[i].data(), frames_[prepared].strides[i]};
    }
  }
  if (refused != Reason::kNone) prepared--;

  Frame* together[kTogether];
  int number = 0;
  bool good = true;
  for (int i = 0; i < prepared; i++) {
    if (frames_[i].header.restart_interval) {
      good = decode_restarting(grid, simd, frames_[i]) && good;
    } else {
      together[number++] = &frames_[i];
    }
  }
  if (number) good = decode_rows(grid, simd, together, number) && good;
  if (!good) {
    // The inverse DCT, which sets blocks to 0 as it goes, did not get that far.
    for (Frame& frame : frames_) frame.coefficients.clear();
    return Reason::kJpegCorrupt;
  }
  return refused;
}

Reason JpegDecoder::prepare(const Bytes& jpeg, int width, int height, const Grid& grid, const Simd& simd,
                            Frame& frame) {
  const Reason reason = read_jpeg_header(jpeg.data, jpeg.size, width, height, frame.header);
  if (reason != Reason::kNone) return reason;
  const size_t scan = frame.header.scan;
  if (!find_tables(frame) || !unstuff(jpeg.data + scan, jpeg.size - scan, grid.columns * kMcuBytes + 16, frame)) {
    return Reason::kJpegCorrupt;
  }
  const size_t mcus = static_cast<size_t>(grid.columns) * grid.rows;
  const unsigned interval = frame.header.restart_interval;
  if (frame.intervals.size() - 1 != (interval ? (mcus - 1) / interval + 1 : 1)) return Reason::kJpegCorrupt;

  place_blocks(grid, simd, frame);
  for (int i = 0; i < 3; i++) {
    const size_t side = i == 0 ? 16 : 8;
    // A group of blocks, or a window of the resizing, may reach beyond the last MCU.
    frame.strides[i] = static_cast<ptrdiff_t>(round_up(grid.columns * side, 64) + 64);
    frame.planes[i].need(frame.strides[i] * grid.rows * side);
    frame.dc[i] = 0;
  }
  return Reason::kNone;
}

// Most JPEGs have the same tables as the one before.
bool JpegDecoder::find_tables(Frame& frame) {
  for (int i = 0; i < 3; i++) {
    const HuffmanSpec& dc = frame.header.dc[frame.header.component[i].dc];
    const HuffmanSpec& ac = frame.header.ac[frame.header.component[i].ac];
    Tables* tables = std::find_if(std::begin(tables_), std::end(tables_),
                                  [&](const Tables& t) { return t.used && t.dc == dc && t.ac == ac; });
    if (tables == std::end(tables_)) {
      // There is room for all that the frames of one call can need.
      tables = std::min_element(std::begin(tables_), std::end(tables_),
                                [](const Tables& a, const Tables& b) { return a.used < b.used; });
      tables->used = 0;
      if (!tables->built.build(dc, ac)) return false;
      tables->dc = dc;
      tables->ac = ac;
    }
    tables->used = calls_;
    frame.tables[i] = &tables->built;
  }
  return true;
}

// Copies the scan to frame.scan and finds the restarts. False unless it goes up to the end of the image. After it, `pad`
// bytes can be read.
bool JpegDecoder::unstuff(const uint8_t* data, size_t size, size_t pad, Frame& frame) {
  uint8_t* const out = frame.scan.need(size + pad);
  const uint8_t* const end = data + size;
  std::vector<size_t>& intervals = frame.intervals;
  size_t written = 0;
  intervals.assign(1, 0);
  for (;;) {
    const auto* marker = static_cast<const uint8_t*>(std::memchr(data, 0xff, static_cast<size_t>(end - data)));
    if (!marker) return false;
    const size_t run = static_cast<size_t>(marker - data);
    std::memcpy(out + written, data, run);
    written += run;
    data = marker + 1;
    while (data < end && *data == 0xff) data++;  // any number of 0xff may come before a marker
    if (data == end) return false;
    if (*data == 0) {
      out[written++] = 0xff;
    } else if (*data == 0xd9) {
      intervals.push_back(written);
      std::memset(out + written, 0, 16);
      return true;
    } else if (*data == 0xd0 + (intervals.size() - 1) % 8 && frame.header.restart_interval) {
      intervals.push_back(written);
    } else {
      return false;
    }
    if (++data == end) return false;
  }
}

void JpegDecoder::place_blocks(const Grid& grid, const Simd& simd, Frame& frame) {
  const size_t group = static_cast<size_t>(simd.group), wanted = static_cast<size_t>(grid.right - grid.left);
  const size_t luma = round_up(2 * wanted, group) * 64, chroma = round_up(wanted, group) * 64;
  frame.rows[0] = frame.coefficients.need(2 * luma + 2 * chroma);
  frame.rows[1] = frame.rows[0] + luma;
  frame.rows[2] = frame.rows[1] + luma;
  frame.rows[3] = frame.rows[2] + chroma;

  const auto at = [&](int16_t* row, size_t column) { return row + column / group * group * 64 + column % group * 8; };

  const size_t blocks = static_cast<size_t>(grid.columns) * kMcuBlocks;
  int16_t* discarded = frame.discarded.need(round_up(blocks, group) * 64);
  frame.kept.resize(blocks + 1);
  frame.skipped.resize(blocks + 1);
  for (size_t i = 0; i < blocks; i++) {
    const int mcu = static_cast<int>(i / kMcuBlocks);
    const auto& part = kMcu[i % kMcuBlocks];
    frame.kept[i] = frame.skipped[i] = {frame.tables[part.component], at(discarded, i)};
    if (mcu >= grid.left && mcu < grid.right) {
      const size_t column = static_cast<size_t>((part.component ? 1 : 2) * (mcu - grid.left) + part.column);
      frame.kept[i].out = at(frame.rows[part.component ? 1 + part.component : part.row], column);
    }
  }
  frame.kept[blocks] = frame.kept[0];
  frame.skipped[blocks] = frame.skipped[0];
}

// DC coefficients are coded as differences from the component's last. `first` is the first block's number in the row.
void JpegDecoder::sum_dc(const Block* blocks, int first, int count, int16_t dc[3]) {
  for (int i = first; i < first + count; i++) {
    int16_t& sum = dc[kMcu[i % kMcuBlocks].component];
    sum = static_cast<int16_t>(sum + blocks[i].out[0]);
    blocks[i].out[0] = sum;
  }
}

bool JpegDecoder::decode_rows(const Grid& grid, const Simd& simd, Frame* const* frames, int count) {
  const int blocks = grid.columns * kMcuBlocks;
  Scan scans[kTogether];
  for (int i = 0; i < count; i++) scans[i].reader = reader_at(frames[i]->scan.data());
  for (int row = 0; row < grid.bottom; row++) {
    for (int i = 0; i < count; i++) scans[i].blocks = (row < grid.top ? frames[i]->skipped : frames[i]->kept).data();
    if (!(count == 2 ? simd.decode_two(scans[0], scans[1], blocks) : simd.decode_one(scans[0], blocks))) return false;
    for (int i = 0; i < count; i++) {
      Frame& frame = *frames[i];
      const auto held = static_cast<int64_t>(frame.intervals[1]);
      if (scans[i].reader.consumed(frame.scan.data()) > 8 * held) return false;
      sum_dc((row < grid.top ? frame.skipped : frame.kept).data(), 0, blocks, frame.dc);
      if (row >= grid.top) transform_row(grid, row, simd, frame);
    }
  }
  return true;
}

// The same, but for a scan that starts afresh every so many MCUs.
bool JpegDecoder::decode_restarting(const Grid& grid, const Simd& simd, Frame& frame) {
  const uint8_t* start = nullptr;
  size_t interval = 0, left = 0;  // MCUs before the next restart
  Scan scan;
  for (int row = 0; row < grid.bottom; row++) {
    const Block* blocks = (row < grid.top ? frame.skipped : frame.kept).data();
    for (int mcu = 0; mcu < grid.columns;) {
      if (left == 0) {
        start = frame.scan.data() + frame.intervals[interval++];
        left = frame.header.restart_interval;
        scan.reader = reader_at(start);
        std::fill(frame.dc, frame.dc + 3, int16_t{0});
      }
      const int run = static_cast<int>(std::min<size_t>(static_cast<size_t>(grid.columns - mcu), left));
      scan.blocks = blocks + mcu * kMcuBlocks;
      if (!simd.decode_one(scan, run * kMcuBlocks)) return false;
      const auto held = static_cast<int64_t>(frame.intervals[interval] - frame.intervals[interval - 1]);
      if (scan.reader.consumed(start) > 8 * held) return false;
      sum_dc(blocks, mcu * kMcuBlocks, run * kMcuBlocks, frame.dc);
      left -= static_cast<size_t>(run);
      mcu += run;
    }
    if (row >= grid.top) transform_row(grid, row, simd, frame);
  }
  return true;
}

void JpegDecoder::transform_row(const Grid& grid, int row, const Simd& simd, Frame& frame) {
  const int wanted = grid.right - grid.left;
  for (int i = 0; i < 4; i++) {
    const int plane = i < 2 ? 0 : i - 1, side = plane ? 8 : 16;
    const uint16_t* quant = frame.header.quant[frame.header.component[plane].quant];
    const ptrdiff_t y = side * row + (i == 1 ? 8 : 0);
    uint8_t* out = frame.planes[plane].data() + y * frame.strides[plane] + side * grid.left;
    simd.inverse_dct(frame.rows[i], plane ? wanted : 2 * wanted, quant, out, frame.strides[plane]);
  }
}

}  // namespace understudy
