#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex_syntax.h"

#include <pcre2.h>

#include <vector>

#include "base/error.h"

namespace minimo {
namespace {

// Oniguruma's \w: CR_Word of its Unicode data; outside a set a table for Latin-1 counts more characters in.
#define MINIMO_WORD "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}" \
                    "\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"
#define MINIMO_LATIN1_WORD "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"
constexpr std::string_view kWordItems = MINIMO_WORD;
constexpr std::string_view kWord = "[" MINIMO_WORD MINIMO_LATIN1_WORD "]";
constexpr std::string_view kNotWord = "[^" MINIMO_WORD MINIMO_LATIN1_WORD "]";
constexpr std::string_view kWordBoundary =
    "(?:(?<=[" MINIMO_WORD MINIMO_LATIN1_WORD "])(?![" MINIMO_WORD MINIMO_LATIN1_WORD "])"
    "|(?<![" MINIMO_WORD MINIMO_LATIN1_WORD "])(?=[" MINIMO_WORD MINIMO_LATIN1_WORD "]))";
#undef MINIMO_LATIN1_WORD
#undef MINIMO_WORD
constexpr std::string_view kHexItems = "0-9A-Fa-f";
constexpr std::string_view kHex = "[0-9A-Fa-f]";

bool Compiles(const std::string& pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF, &error,
                                   &offset, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  Result<std::string> Run() {
    while (at_ < in_.size()) {
      switch (in_[at_]) {
        case '\\': MINIMO_TRY(Escape()); break;
        case '[': MINIMO_TRY(Set()); break;
        case '(': OpenGroup(); break;
        case ')': CloseGroup(); break;
        case '{': Braces(); break;
        case '?': case '*': case '+': out_ += in_[at_++]; break;  // belongs to the atom before
        default: atom_ = out_.size(); out_ += in_[at_++];
      }
    }
    return out_;
  }

 private:
  bool Next(std::string_view text) const { return in_.substr(at_).starts_with(text); }

  // \uHHHH -> \x{HHHH}
  bool HexEscape() {
    if (!Next("\\u") || in_.size() < at_ + 6) return false;
    out_.append("\\x{").append(in_.substr(at_ + 2, 4)).append("}");
    at_ += 6;
    return true;
  }

  // Copies an escape, with its {...} after \p, \P and \x. A script's name means Script in Oniguruma, Script_Extensions
  // in PCRE2 unless said.
  void CopyEscape() {
    const char kind = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    size_t size = kind == '\0' ? 1 : 2;
    std::string escape(in_.substr(at_, size));
    const size_t close = in_.find('}', at_);
    const bool braces = in_.substr(at_ + size).starts_with("{") && close != in_.npos;
    if ((kind == 'p' || kind == 'P' || kind == 'x') && braces) {
      size = close + 1 - at_;
      escape = in_.substr(at_, size);
      const bool negated = escape.size() > 3 && escape[3] == '^';
      std::string script = std::string(escape).insert(negated ? 4 : 3, "sc:");
      if (kind != 'x' && Compiles(script)) escape = std::move(script);
    }
    out_.append(escape);
    at_ += size;
  }

  Status Escape() {
    atom_ = out_.size();
    if (HexEscape()) return {};
    const char kind = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    if (kind == 'B' || kind == 'X') return Errorf("\\{} is not supported", kind);
    std::string_view replacement;
    if (kind == 'w') replacement = kWord;
    if (kind == 'W') replacement = kNotWord;
    if (kind == 'b') replacement = kWordBoundary;
    if (kind == 'h') replacement = kHex;
    if (replacement.empty()) {
      CopyEscape();
    } else {
      out_.append(replacement);
      at_ += 2;
    }
    return {};
  }

  Status Set() {
    atom_ = out_.size();
    out_ += in_[at_++];
    if (Next("^")) out_ += in_[at_++];
    if (Next("]")) out_.append("\\]"), ++at_;
    while (at_ < in_.size() && in_[at_] != ']') {
      if (Next("&&")) return Errorf("an intersection (&&) in a set is not supported");
      if (Next("[")) {
        return Errorf("a [ within a set is not supported");
      } else if (Next("\\w") || Next("\\h")) {
        out_.append(in_[at_ + 1] == 'w' ? kWordItems : kHexItems);
        at_ += 2;
      } else if (Next("\\W") || Next("\\H")) {
        return Errorf("\\{} in a set is not supported", in_[at_ + 1]);
      } else if (Next("\\")) {
        if (!HexEscape()) CopyEscape();
      } else {
        out_ += in_[at_++];
      }
    }
    if (at_ < in_.size()) out_ += in_[at_++];
    return {};
  }

  void OpenGroup() {
    groups_.push_back(out_.size());
    out_ += in_[at_++];
    if (!Next("?")) return;
    out_ += in_[at_++];
    // Options: Oniguruma's m (dot matches newline) is PCRE2's s.
    const size_t end = in_.find_first_not_of("imx-", at_);
    if (end == std::string_view::npos || (in_[end] != ':' && in_[end] != ')')) return;
    for (; at_ < end; ++at_) out_ += in_[at_] == 'm' ? 's' : in_[at_];
  }

  void CloseGroup() {
    if (!groups_.empty()) {
      atom_ = groups_.back();
      groups_.pop_back();
    }
    out_ += in_[at_++];
  }

  // {n}, {n,}, {n,m}, {,m}. A + after any of them, and a ? after {n}, is a second quantifier to Oniguruma.
  void Braces() {
    const size_t end = in_.find('}', at_);
    const std::string_view inside = end == std::string_view::npos ? "" : in_.substr(at_ + 1, end - at_ - 1);
    const bool interval = !inside.empty() && inside != "," && inside.find_first_not_of("0123456789,") == inside.npos &&
                          inside.find(',') == inside.rfind(',');
    if (!interval) {
      atom_ = out_.size();
      out_.append("\\{");
      ++at_;
      return;
    }
    out_.append(inside.front() == ',' ? "{0" : "{").append(inside).append("}");
    at_ = end + 1;
    const bool fixed = inside.find(',') == inside.npos;
    if (Next("+") || (fixed && Next("?"))) {
      out_.insert(atom_, "(?:");
      out_ += ")";
    }
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
  size_t atom_ = 0;             // where the last atom begins in out_
  std::vector<size_t> groups_;  // where the open groups begin in out_
};

}  // namespace

Result<std::string> OnigurumaToPcre2(std::string_view pattern) { return Translator(pattern).Run(); }

}  // namespace minimo
