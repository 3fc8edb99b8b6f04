#include "text/unicode_pins.h"

#include <utf8proc.h>

#include <algorithm>
#include <bitset>
#include <iterator>

#include "text/utf8.h"

namespace minimo {
namespace {

enum Category : uint8_t { kLu, kLl, kLm, kLo, kHan, kMn, kMc, kNd, kNo, kPd, kPo, kSm, kSo, kCf, kCategories };

struct CategoryRange {
  char32_t first, last;
  Category category;
};

// General categories of Unicode 16 (DerivedGeneralCategory.txt) where Unicode 14 has another; and U+180E, which is Cf
// in both, but white space (\s) to PCRE2 alone. Of the letters, Lo, those of the script Han apart. Sorted.
constexpr CategoryRange kNewCategories[] = {
    {0x897, 0x897, kMn}, {0xCF3, 0xCF3, kMc}, {0xECE, 0xECE, kMn}, {0x180E, 0x180E, kCf}, {0x1B4E, 0x1B4F, kPo},
    {0x1B7F, 0x1B7F, kPo}, {0x1C89, 0x1C89, kLu}, {0x1C8A, 0x1C8A, kLl}, {0x2427, 0x2429, kSo}, {0x2FFC, 0x2FFF, kSo},
    {0x31E4, 0x31E5, kSo}, {0x31EF, 0x31EF, kSo}, {0xA7CB, 0xA7CC, kLu}, {0xA7CD, 0xA7CD, kLl}, {0xA7DA, 0xA7DA, kLu},
    {0xA7DB, 0xA7DB, kLl}, {0xA7DC, 0xA7DC, kLu}, {0x105C0, 0x105F3, kLo}, {0x10D40, 0x10D49, kNd},
    {0x10D4A, 0x10D4D, kLo}, {0x10D4E, 0x10D4E, kLm}, {0x10D4F, 0x10D4F, kLo}, {0x10D50, 0x10D65, kLu},
    {0x10D69, 0x10D6D, kMn}, {0x10D6E, 0x10D6E, kPd}, {0x10D6F, 0x10D6F, kLm}, {0x10D70, 0x10D85, kLl},
    {0x10D8E, 0x10D8F, kSm}, {0x10EC2, 0x10EC4, kLo}, {0x10EFC, 0x10EFF, kMn}, {0x1123F, 0x11240, kLo},
    {0x11241, 0x11241, kMn}, {0x11380, 0x11389, kLo}, {0x1138B, 0x1138B, kLo}, {0x1138E, 0x1138E, kLo},
    {0x11390, 0x113B5, kLo}, {0x113B7, 0x113B7, kLo}, {0x113B8, 0x113BA, kMc}, {0x113BB, 0x113C0, kMn},
    {0x113C2, 0x113C2, kMc}, {0x113C5, 0x113C5, kMc}, {0x113C7, 0x113CA, kMc}, {0x113CC, 0x113CD, kMc},
    {0x113CE, 0x113CE, kMn}, {0x113CF, 0x113CF, kMc}, {0x113D0, 0x113D0, kMn}, {0x113D1, 0x113D1, kLo},
    {0x113D2, 0x113D2, kMn}, {0x113D3, 0x113D3, kLo}, {0x113D4, 0x113D5, kPo}, {0x113D7, 0x113D8, kPo},
    {0x113E1, 0x113E2, kMn}, {0x116D0, 0x116E3, kNd}, {0x1171E, 0x1171E, kMc}, {0x11B00, 0x11B09, kPo},
    {0x11BC0, 0x11BE0, kLo}, {0x11BE1, 0x11BE1, kPo}, {0x11BF0, 0x11BF9, kNd}, {0x11F00, 0x11F01, kMn},
    {0x11F02, 0x11F02, kLo}, {0x11F03, 0x11F03, kMc}, {0x11F04, 0x11F10, kLo}, {0x11F12, 0x11F33, kLo},
    {0x11F34, 0x11F35, kMc}, {0x11F36, 0x11F3A, kMn}, {0x11F3E, 0x11F3F, kMc}, {0x11F40, 0x11F40, kMn},
    {0x11F41, 0x11F41, kMc}, {0x11F42, 0x11F42, kMn}, {0x11F43, 0x11F4F, kPo}, {0x11F50, 0x11F59, kNd},
    {0x11F5A, 0x11F5A, kMn}, {0x1342F, 0x1342F, kLo}, {0x13439, 0x1343F, kCf}, {0x13440, 0x13440, kMn},
    {0x13441, 0x13446, kLo}, {0x13447, 0x13455, kMn}, {0x13460, 0x143FA, kLo}, {0x16100, 0x1611D, kLo},
    {0x1611E, 0x16129, kMn}, {0x1612A, 0x1612C, kMc}, {0x1612D, 0x1612F, kMn}, {0x16130, 0x16139, kNd},
    {0x16D40, 0x16D42, kLm}, {0x16D43, 0x16D6A, kLo}, {0x16D6B, 0x16D6C, kLm}, {0x16D6D, 0x16D6F, kPo},
    {0x16D70, 0x16D79, kNd}, {0x18CFF, 0x18CFF, kLo}, {0x1B132, 0x1B132, kLo}, {0x1B155, 0x1B155, kLo},
    {0x1CC00, 0x1CCEF, kSo}, {0x1CCF0, 0x1CCF9, kNd}, {0x1CD00, 0x1CEB3, kSo}, {0x1D2C0, 0x1D2D3, kNo},
    {0x1DF25, 0x1DF2A, kLl}, {0x1E030, 0x1E06D, kLm}, {0x1E08F, 0x1E08F, kMn}, {0x1E4D0, 0x1E4EA, kLo},
    {0x1E4EB, 0x1E4EB, kLm}, {0x1E4EC, 0x1E4EF, kMn}, {0x1E4F0, 0x1E4F9, kNd}, {0x1E5D0, 0x1E5ED, kLo},
    {0x1E5EE, 0x1E5EF, kMn}, {0x1E5F0, 0x1E5F0, kLo}, {0x1E5F1, 0x1E5FA, kNd}, {0x1E5FF, 0x1E5FF, kPo},
    {0x1F6DC, 0x1F6DC, kSo}, {0x1F774, 0x1F776, kSo}, {0x1F77B, 0x1F77F, kSo}, {0x1F7D9, 0x1F7D9, kSo},
    {0x1F8B2, 0x1F8BB, kSo}, {0x1F8C0, 0x1F8C1, kSo}, {0x1FA75, 0x1FA77, kSo}, {0x1FA87, 0x1FA89, kSo},
    {0x1FA8F, 0x1FA8F, kSo}, {0x1FAAD, 0x1FAAF, kSo}, {0x1FABB, 0x1FABF, kSo}, {0x1FAC6, 0x1FAC6, kSo},
    {0x1FACE, 0x1FACF, kSo}, {0x1FADA, 0x1FADC, kSo}, {0x1FADF, 0x1FADF, kSo}, {0x1FAE8, 0x1FAE9, kSo},
    {0x1FAF7, 0x1FAF8, kSo}, {0x1FBCB, 0x1FBEF, kSo}, {0x2B739, 0x2B739, kHan}, {0x2EBF0, 0x2EE5D, kHan},
    {0x31350, 0x323AF, kHan},
};

// Stand-ins by category for characters of 3 and of 4 bytes, all assigned before Unicode 14. 0: none is needed.
constexpr char32_t kStandIn3[kCategories] = {0x1E00, 0x1E01, 0, 0,      0, 0x1DC0, 0x0903,
                                             0,      0,      0, 0x2020, 0, 0x2600, 0x200B};
constexpr char32_t kStandIn4[kCategories] = {0x1D400, 0x1D41A, 0x16F93, 0x10000, 0x20000, 0x101FD, 0x11000, 0x104A0,
                                             0x10107, 0x10EAD, 0x10100, 0x1D6C1, 0x1F600, 0x110BD};

struct Range {
  char32_t first, last;
};

// Combining marks (and U+11938 with its second half) assigned since Unicode 10. Sorted.
constexpr Range kUnknownMarks[] = {
    {0x7FD, 0x7FD}, {0x898, 0x89F}, {0x8CA, 0x8D3}, {0x9FE, 0x9FE}, {0xC3C, 0xC3C}, {0xD3B, 0xD3C}, {0xEBA, 0xEBA},
    {0x1715, 0x1715}, {0x1ABF, 0x1ACE}, {0x1DF6, 0x1DFA}, {0xA82C, 0xA82C}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC},
    {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
    {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
    {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1},
    {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
};

// Characters with a compatibility decomposition assigned since Unicode 10. Sorted.
constexpr Range kUnknownCompatibility[] = {
    {0x32FF, 0x32FF}, {0xA7F2, 0xA7F4}, {0xAB69, 0xAB69}, {0x10781, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA},
    {0x1E030, 0x1E06D}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9},
};

template <typename R, size_t n>
const R* FindRange(const R (&ranges)[n], char32_t code_point) {
  const R* after = std::upper_bound(std::begin(ranges), std::end(ranges), code_point,
                                    [](char32_t c, const R& range) { return c < range.first; });
  if (after == std::begin(ranges) || (after - 1)->last < code_point) return nullptr;
  return after - 1;
}

// Blocks of 256 code points with a new category in them: the quick test for the common case.
using Blocks = std::bitset<0x1100>;
const Blocks& NewCategoryBlocks() {
  static const Blocks blocks = [] {
    Blocks set;
    for (const CategoryRange& range : kNewCategories) {
      for (char32_t block = range.first >> 8; block <= range.last >> 8; ++block) set.set(block);
    }
    return set;
  }();
  return blocks;
}

enum class CategoryClass { kLetter, kMark, kDecimal, kOtherNumber, kLetterNumber, kConnector, kOther };

CategoryClass ClassOf(char32_t code_point) {
  if (const CategoryRange* range = FindRange(kNewCategories, code_point)) {
    switch (range->category) {
      case kLu: case kLl: case kLm: case kLo: case kHan: return CategoryClass::kLetter;
      case kMn: case kMc: return CategoryClass::kMark;
      case kNd: return CategoryClass::kDecimal;
      case kNo: return CategoryClass::kOtherNumber;
      default: return CategoryClass::kOther;
    }
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM: case UTF8PROC_CATEGORY_LO: return CategoryClass::kLetter;
    case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME: return CategoryClass::kMark;
    case UTF8PROC_CATEGORY_ND: return CategoryClass::kDecimal;
    case UTF8PROC_CATEGORY_NL: return CategoryClass::kLetterNumber;
    case UTF8PROC_CATEGORY_NO: return CategoryClass::kOtherNumber;
    case UTF8PROC_CATEGORY_PC: return CategoryClass::kConnector;
    default: return CategoryClass::kOther;
  }
}

}  // namespace

std::string_view PinnedForRegex(std::string_view text, std::string* storage) {
  const Blocks& blocks = NewCategoryBlocks();
  bool copied = false;
  for (size_t i = 0; i < text.size();) {
    const uint8_t lead = static_cast<uint8_t>(text[i]);
    if (lead < 0xE0) {  // every new character lies beyond U+07FF; a continuation byte cannot be met here
      i += lead < 0x80 ? 1 : 2;
      continue;
    }
    uint32_t size = 0;
    const char32_t code_point = DecodeUtf8(text.substr(i), &size);
    if (blocks.test(code_point >> 8)) {
      if (const CategoryRange* range = FindRange(kNewCategories, code_point)) {
        if (!copied) storage->assign(text);
        copied = true;
        std::string stand_in;
        AppendUtf8(size == 3 ? kStandIn3[range->category] : kStandIn4[range->category], &stand_in);
        storage->replace(i, size, stand_in);
      }
    }
    i += size;
  }
  return copied ? std::string_view(*storage) : text;
}

bool IsUnknownToNormalizer(char32_t code_point, bool compatibility) {
  return FindRange(kUnknownMarks, code_point) != nullptr ||
         (compatibility && FindRange(kUnknownCompatibility, code_point) != nullptr);
}

bool IsNumeric(char32_t code_point) {
  if (code_point < 0x80) return code_point >= '0' && code_point <= '9';
  const CategoryClass c = ClassOf(code_point);
  return c == CategoryClass::kDecimal || c == CategoryClass::kOtherNumber || c == CategoryClass::kLetterNumber;
}

// \w: Alphabetic, marks, decimal digits, connector punctuation, Join_Control (UTS 18, annex C). Of Other_Alphabetic
// only the circled and squared letters are no marks.
bool IsWord(char32_t c) {
  const CategoryClass category = ClassOf(c);
  return (category != CategoryClass::kOther && category != CategoryClass::kOtherNumber) || c == 0x200C || c == 0x200D ||
         (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
         (c >= 0x1F170 && c <= 0x1F189);
}

// The property White_Space (PropList.txt).
bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

}  // namespace minimo
