#include "jpeg_header.h"

namespace understudy {
namespace {

enum Marker : uint8_t {
  kStartOfImage = 0xd8,
  kBaselineFrame = 0xc0,
  kHuffmanTables = 0xc4,
  kQuantTables = 0xdb,
  kRestartInterval = 0xdd,
  kStartOfScan = 0xda,
  kApp0 = 0xe0,
  kAdobe = 0xee,
  kApp15 = 0xef,
  kComment = 0xfe,
};

// The body of a segment; every read checks that there is something left.
struct Segment {
  const uint8_t* at;
  size_t left;

  bool skip(size_t n) {
    if (left < n) return false;
    at += n;
    left -= n;
    return true;
  }
  bool byte(unsigned& value) {
    if (!left) return false;
    value = *at;
    return skip(1);
  }
  bool word(unsigned& value) {
    if (left < 2) return false;
    value = at[0] * 256u + at[1];
    return skip(2);
  }
};

bool starts_with(const Segment& bytes, const char* text, size_t size) {
  return bytes.left >= size && std::memcmp(bytes.at, text, size) == 0;
}

class Parser {
 public:
  Parser(int width, int height, JpegHeader& header) : width_(width), height_(height), header_(header) {}

  Reason parse(const uint8_t* data, size_t size) {
    Segment file{data, size};
    unsigned byte, marker, length;
    if (!file.byte(byte) || byte != 0xff || !file.byte(byte) || byte != kStartOfImage) return Reason::kJpegCorrupt;
    header_.restart_interval = 0;
    for (;;) {
      if (!file.byte(byte) || byte != 0xff) return Reason::kJpegCorrupt;
      do {
        if (!file.byte(marker)) return Reason::kJpegCorrupt;
      } while (marker == 0xff);
      if (!file.word(length) || length < 2) return Reason::kJpegCorrupt;
      const Segment body{file.at, length - 2};
      if (!file.skip(length - 2)) return Reason::kJpegCorrupt;
      const Reason reason = segment(marker, body);
      if (reason != Reason::kNone) return reason;
      if (marker == kStartOfScan) {
        header_.scan = size - file.left;
        return Reason::kNone;
      }
    }
  }

 private:
  Reason segment(unsigned marker, Segment body) {
    switch (marker) {
      case kBaselineFrame:
        return frame(body);
      case kHuffmanTables:
        return huffman_tables(body);
      case kQuantTables:
        return quant_tables(body);
      case kRestartInterval:
        return body.word(header_.restart_interval) && !body.left ? Reason::kNone : Reason::kJpegCorrupt;
      case kStartOfScan:
        return scan(body);
      case kApp0:
        has_jfif_ = has_jfif_ || starts_with(body, "JFIF\0", 5);
        return Reason::kNone;
      case kAdobe:
        if (starts_with(body, "Adobe", 5) && body.left >= 12) {
          has_adobe_ = true;
          adobe_transform_ = body.at[11];
        }
        return Reason::kNone;
      case kComment:
        return Reason::kNone;
      default:
        if (marker > kApp0 && marker <= kApp15) return Reason::kNone;
        // Other frames (progressive, lossless, arithmetic) and what goes with them.
        return marker > kBaselineFrame && marker < 0xd0 ? Reason::kJpegKind : Reason::kJpegCorrupt;
    }
  }

  Reason frame(Segment body) {
    unsigned precision, height, width, components;
    if (has_frame_ || !body.byte(precision) || !body.word(height) || !body.word(width) || !body.byte(components) ||
        body.left != 3 * components) {
      return Reason::kJpegCorrupt;
    }
    if (static_cast<int>(width) != width_ || static_cast<int>(height) != height_) return Reason::kSize;
    if (precision != 8 || components != 3) return Reason::kJpegKind;
    for (int i = 0; i < 3; i++, body.skip(3)) {
      ids_[i] = body.at[0];
      if (body.at[1] != (i == 0 ? 0x22 : 0x11)) return Reason::kJpegKind;
      if (body.at[2] > 3) return Reason::kJpegCorrupt;
      header_.component[i].quant = body.at[2];
    }
    has_frame_ = true;
    return Reason::kNone;
  }

  Reason huffman_tables(Segment body) {
    while (body.left) {
      unsigned which, symbols = 0;
      HuffmanSpec spec;
      if (!body.byte(which) || (which & 15) > 3 || which >> 4 > 1 || body.left < 16) return Reason::kJpegCorrupt;
      std::memcpy(spec.counts, body.at, 16);
      body.skip(16);
      for (const uint8_t count : spec.counts) symbols += count;
      if (symbols > 256 || body.left < symbols) return Reason::kJpegCorrupt;
      std::memcpy(spec.symbols, body.at, symbols);
      body.skip(symbols);
      (which >> 4 ? header_.ac : header_.dc)[which & 15] = spec;
      (which >> 4 ? has_ac_ : has_dc_)[which & 15] = true;
    }
    return Reason::kNone;
  }

  Reason quant_tables(Segment body) {
    while (body.left) {
      unsigned which;
      if (!body.byte(which)) return Reason::kJpegCorrupt;
      if (which >> 4) return Reason::kJpegKind;  // of 16 bits
      if (which > 3 || body.left < 64) return Reason::kJpegCorrupt;
      for (int k = 0; k < 64; k++) header_.quant[which][kZigzag[k]] = body.at[k];
      body.skip(64);
      has_quant_[which] = true;
    }
    return Reason::kNone;
  }

  Reason scan(Segment body) {
    unsigned components;
    if (!has_frame_ || !body.byte(components)) return Reason::kJpegCorrupt;
    if (components != 3) return Reason::kJpegKind;
    if (body.left != 2 * components + 3) return Reason::kJpegCorrupt;
    for (int i = 0; i < 3; i++, body.skip(2)) {
      const int dc = body.at[1] >> 4, ac = body.at[1] & 15;
      if (body.at[0] != ids_[i] || dc > 3 || ac > 3 || !has_dc_[dc] || !has_ac_[ac] ||
          !has_quant_[header_.component[i].quant]) {
        return Reason::kJpegCorrupt;
      }
      header_.component[i].dc = dc;
      header_.component[i].ac = ac;
    }
    // The spectral selection and successive approximation of a baseline scan.
    if (body.at[0] != 0 || body.at[1] != 63 || body.at[2] != 0) return Reason::kJpegCorrupt;
    return is_rgb() ? Reason::kJpegKind : Reason::kNone;
  }

  // By the rules of libjpeg.
  bool is_rgb() const {
    if (has_jfif_) return false;
    if (has_adobe_) return adobe_transform_ != 1;
    return std::memcmp(ids_, "RGB", 3) == 0;
  }

  const int width_, height_;
  JpegHeader& header_;
  bool has_frame_ = false, has_jfif_ = false, has_adobe_ = false;
  bool has_dc_[4] = {}, has_ac_[4] = {}, has_quant_[4] = {};
  uint8_t ids_[3] = {};
  unsigned adobe_transform_ = 0;
};

}  // namespace

Reason read_jpeg_header(const uint8_t* data, size_t size, int width, int height, JpegHeader& header) {
  return Parser(width, height, header).parse(data, size);
}

}  // namespace understudy
