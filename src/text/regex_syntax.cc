#include "text/regex_syntax.h"

#include <cctype>
#include <vector>

#include "base/error.h"

namespace minimo {
namespace {

// Oniguruma's \w, without the brackets: CR_Word of its unicode data.
#define MINIMO_WORD "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}\\x{24B6}-\\x{24E9}" \
                    "\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"
constexpr std::string_view kWordItems = MINIMO_WORD;
constexpr std::string_view kWord = "[" MINIMO_WORD "]";
constexpr std::string_view kNotWord = "[^" MINIMO_WORD "]";
constexpr std::string_view kWordBoundary =
    "(?:(?<=[" MINIMO_WORD "])(?![" MINIMO_WORD "])|(?<![" MINIMO_WORD "])(?=[" MINIMO_WORD "]))";
#undef MINIMO_WORD
constexpr std::string_view kHexItems = "0-9A-Fa-f";
constexpr std::string_view kHex = "[0-9A-Fa-f]";

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

  // \uHHHH -> \x{HHHH}; whatever follows \p, \x and the like is copied with them by the caller's loop.
  bool HexEscape() {
    if (!Next("\\u") || in_.size() < at_ + 6) return false;
    out_.append("\\x{").append(in_.substr(at_ + 2, 4)).append("}");
    at_ += 6;
    return true;
  }

  // An escape with its {...}, as \p{L}, \x{41}, \k<name> keep theirs.
  void CopyEscape() {
    const char kind = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    size_t size = kind == '\0' ? 1 : 2;
    if ((kind == 'p' || kind == 'P' || kind == 'x') && at_ + 2 < in_.size() && in_[at_ + 2] == '{') {
      const size_t close = in_.find('}', at_);
      size = (close == std::string_view::npos ? in_.size() : close + 1) - at_;
    }
    out_.append(in_.substr(at_, size));
    at_ += size;
  }

  Status Escape() {
    atom_ = out_.size();
    if (HexEscape()) return {};
    const char kind = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    if (kind == 'B') return Errorf("\\B is not supported");
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
      if (Next("[:") && in_.find(":]", at_) != std::string_view::npos) {
        const size_t end = in_.find(":]", at_) + 2;
        out_.append(in_.substr(at_, end - at_));
        at_ = end;
      } else if (Next("[")) {
        return Errorf("a set within a set is not supported");
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
