#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/unicode_pins.h"
#include "text/utf8.h"

namespace minimo {
namespace {

constexpr char32_t kCodePoints = 0x110000;

bool IsCompatibility(NormalForm form) { return form == NormalForm::kNfkc || form == NormalForm::kNfkd; }
bool Composes(NormalForm form) { return form == NormalForm::kNfc || form == NormalForm::kNfkc; }

utf8proc_option_t DecomposeOptions(NormalForm form) {
  const int compatibility = IsCompatibility(form) ? UTF8PROC_COMPAT : 0;
  return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | compatibility);
}

int CombiningClass(int32_t code_point) { return utf8proc_get_property(code_point)->combining_class; }

void AppendDecomposition(char32_t code_point, NormalForm form, std::vector<int32_t>* out) {
  constexpr int kLongest = 18;  // U+FDFA, by NFKD
  int32_t buffer[kLongest];
  int boundclass = 0;
  const utf8proc_ssize_t n = utf8proc_decompose_char(static_cast<int32_t>(code_point), buffer, kLongest,
                                                     DecomposeOptions(form), &boundclass);
  if (n > 0 && n <= kLongest) {
    out->insert(out->end(), buffer, buffer + n);
  } else {
    out->push_back(static_cast<int32_t>(code_point));
  }
}

// Canonical ordering: a stable sort by combining class within each run of marks. (utf8proc's own is quadratic.)
void OrderMarks(std::vector<int32_t>* text) {
  const auto is_starter = [](int32_t c) { return CombiningClass(c) == 0; };
  for (auto run = text->begin(); run != text->end();) {
    run = std::find_if_not(run, text->end(), is_starter);
    const auto end = std::find_if(run, text->end(), is_starter);
    std::stable_sort(run, end, [](int32_t a, int32_t b) { return CombiningClass(a) < CombiningClass(b); });
    run = end;
  }
}

void Compose(std::vector<int32_t>* text) {
  const utf8proc_ssize_t n =
      utf8proc_normalize_utf32(text->data(), static_cast<utf8proc_ssize_t>(text->size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (n >= 0) text->resize(static_cast<size_t>(n));
}

// One bit a code point: starters that the form leaves alone and that join with nothing before them. Text is normalized
// only around the others, which most texts have none of.
class InertSet {
 public:
  explicit InertSet(NormalForm form) : bits_(kCodePoints, true) {
    std::vector<int32_t> text;
    for (char32_t c = 0; c < kCodePoints; ++c) {
      if (c == 0xD800) c = 0xE000;
      text.clear();
      AppendDecomposition(c, form, &text);
      if (CombiningClass(static_cast<int32_t>(c)) != 0) bits_[c] = false;
      if (text.size() == 1 && text[0] == static_cast<int32_t>(c)) continue;
      if (Composes(form)) {
        // Whatever follows the first character of a decomposition may join with one before it.
        for (size_t i = 1; i < text.size(); ++i) bits_[static_cast<size_t>(text[i])] = false;
        OrderMarks(&text);
        Compose(&text);
      }
      if (text.size() != 1 || text[0] != static_cast<int32_t>(c)) bits_[c] = false;
    }
    for (char32_t c = 0; c < kCodePoints; ++c) {
      if (!bits_[c] && IsUnknownToNormalizer(c, IsCompatibility(form))) bits_[c] = true;
    }
  }
  bool Has(char32_t code_point) const { return bits_[code_point]; }

 private:
  std::vector<bool> bits_;
};

const InertSet& InertUnder(NormalForm form) {
  switch (form) {
    case NormalForm::kNfc: { static const InertSet set(NormalForm::kNfc); return set; }
    case NormalForm::kNfd: { static const InertSet set(NormalForm::kNfd); return set; }
    case NormalForm::kNfkc: { static const InertSet set(NormalForm::kNfkc); return set; }
    case NormalForm::kNfkd: break;
  }
  static const InertSet set(NormalForm::kNfkd);
  return set;
}

}  // namespace

std::string_view Normalize(NormalForm form, std::string_view text, std::string* storage) {
  const InertSet& inert = InertUnder(form);
  std::string out;
  size_t done = 0;      // text[0, done) is in `out`
  size_t previous = 0;  // where the character before `i` begins
  bool previous_joins = false;  // false at the start of the text and after a character unknown to the library
  std::vector<int32_t> segment;
  for (size_t i = 0; i < text.size();) {
    uint32_t size = 0;
    char32_t code_point = DecodeUtf8(text.substr(i), &size);
    if (inert.Has(code_point)) {
      previous = i;
      previous_joins = code_point < 0x80 || !IsUnknownToNormalizer(code_point, IsCompatibility(form));
      i += size;
      continue;
    }
    // The segment: the inert character before, if it may take part, and all up to the next inert one.
    size_t end = previous_joins ? previous : i;
    out.append(text.substr(done, end - done));
    segment.clear();
    for (; end < text.size(); end += size) {
      code_point = DecodeUtf8(text.substr(end), &size);
      if (end >= i && inert.Has(code_point)) break;
      AppendDecomposition(code_point, form, &segment);
    }
    OrderMarks(&segment);
    if (Composes(form)) Compose(&segment);
    for (const int32_t c : segment) AppendUtf8(static_cast<char32_t>(c), &out);
    done = i = end;
    previous_joins = false;
  }
  if (done == 0) return text;
  out.append(text.substr(done));
  *storage = std::move(out);
  return *storage;
}

Result<Normalizer> Normalizer::Parse(const nlohmann::json& json) {
  static const std::array<std::pair<const char*, NormalForm>, 4> kForms = {{{"NFC", NormalForm::kNfc},
                                                                           {"NFD", NormalForm::kNfd},
                                                                           {"NFKC", NormalForm::kNfkc},
                                                                           {"NFKD", NormalForm::kNfkd}}};
  Normalizer normalizer;
  if (json.is_null()) return normalizer;
  const auto type = json.find("type");
  if (!json.is_object() || type == json.end() || !type->is_string()) return Errorf("normalizer has no \"type\"");
  const std::string& name = type->get_ref<const std::string&>();
  if (name == "Sequence") {
    const auto parts = json.find("normalizers");
    if (parts == json.end() || !parts->is_array()) return Errorf("normalizer Sequence has no list \"normalizers\"");
    for (const nlohmann::json& part : *parts) {
      MINIMO_ASSIGN(const Normalizer parsed, Parse(part));
      normalizer.forms_.insert(normalizer.forms_.end(), parsed.forms_.begin(), parsed.forms_.end());
    }
    return normalizer;
  }
  for (const auto& [form_name, form] : kForms) {
    if (name != form_name) continue;
    normalizer.forms_.push_back(form);
    return normalizer;
  }
  return Errorf("normalizer \"{}\" is not supported; NFC, NFD, NFKC, NFKD and Sequence are", name);
}

std::string_view Normalizer::Apply(std::string_view text, std::string* storage) const {
  for (const NormalForm form : forms_) text = Normalize(form, text, storage);
  return text;
}

}  // namespace minimo
