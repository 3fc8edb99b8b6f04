#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "base/error.h"
#include "text/jinja/unicode.h"

namespace minimo::jinja {
namespace {

// Longest first.
constexpr std::array<std::string_view, 26> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                         "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                         ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};

// \r\n and \r become \n; one newline at the very end goes.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else if (i + 1 == source.size() || source[i + 1] != '\n') {
      out += '\n';
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool IsAsciiDigit(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  Result<std::vector<Token>> Run() {
    while (position_ < source_.size()) MINIMO_TRY(ReadData());
    Push(TokenKind::kEnd);
    return std::move(tokens_);
  }

 private:
  enum class Tag { kNone, kRaw, kComment, kBlock, kVariable };

  std::string_view Rest() const { return std::string_view(source_).substr(position_); }
  bool StartsWith(std::string_view text) const { return Rest().substr(0, text.size()) == text; }

  Error Fail(const std::string& message) const { return Errorf("line {}: {}", line_, message); }

  void Push(TokenKind kind, std::string text = {}) {
    Token token;
    token.kind = kind;
    token.text = std::move(text);
    token.line = line_;
    tokens_.push_back(std::move(token));
  }

  void Advance(size_t bytes) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(position_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(position_ + bytes), '\n'));
    position_ += bytes;
    if (bytes > 0) line_starting_ = source_[position_ - 1] == '\n';
  }

  void SkipSpace() {
    const std::string_view rest = Rest();
    Advance(rest.size() - Strip(rest, std::nullopt, Side::kLeft).size());
  }

  // Length of {%- raw -%} at `at`, or 0; `name` is "raw" or "endraw". The closing sign is left in *close.
  size_t MatchRawTag(size_t at, std::string_view name, char* close) const {
    const std::string_view text = std::string_view(source_).substr(at);
    if (text.substr(0, 2) != "{%") return 0;
    size_t i = 2;
    if (i < text.size() && (text[i] == '-' || text[i] == '+')) ++i;
    const auto skip_space = [&] { i = text.size() - Strip(text.substr(i), std::nullopt, Side::kLeft).size(); };
    skip_space();
    if (text.substr(i, name.size()) != name) return 0;
    i += name.size();
    skip_space();
    *close = i < text.size() ? text[i] : '\0';
    if (*close == '-' || (*close == '+' && name == "endraw")) ++i;
    return text.substr(i, 2) == "%}" ? i + 2 : 0;
  }

  // The text before a tag, with the white space stripped that the tag's sign or lstrip_blocks asks for.
  std::string_view BeforeTag(std::string_view data, char sign, bool variable) const {
    if (sign == '-') return Strip(data, std::nullopt, Side::kRight);
    if (sign == '+' || variable) return data;
    const size_t newline = data.rfind('\n');
    if (newline == data.npos && !line_starting_) return data;
    const size_t line_start = newline == data.npos ? 0 : newline + 1;
    return Strip(data.substr(line_start), std::nullopt, Side::kLeft).empty() ? data.substr(0, line_start) : data;
  }

  void PushData(std::string_view data) {
    if (!data.empty()) Push(TokenKind::kData, std::string(data));
  }

  char SignAt(size_t at) const {
    return at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : '\0';
  }

  // Text up to the next tag, and the tag.
  Status ReadData() {
    const std::string_view rest = Rest();
    size_t at = 0;
    Tag tag = Tag::kNone;
    for (; tag == Tag::kNone && (at = rest.find('{', at)) != rest.npos; ++at) {
      const char next = at + 1 < rest.size() ? rest[at + 1] : '\0';
      tag = next == '{' ? Tag::kVariable : next == '#' ? Tag::kComment : next == '%' ? Tag::kBlock : Tag::kNone;
      if (tag != Tag::kNone) break;
    }
    if (tag == Tag::kNone) {
      PushData(rest);
      Advance(rest.size());
      return {};
    }
    const size_t begin = position_ + at;
    const char sign = SignAt(begin + 2);
    PushData(BeforeTag(rest.substr(0, at), sign, tag == Tag::kVariable));
    char close = '\0';
    if (const size_t raw = tag == Tag::kBlock ? MatchRawTag(begin, "raw", &close) : 0; raw > 0) {
      Advance(at + raw);
      if (close == '-') SkipSpace();
      return ReadRaw();
    }
    Advance(at);
    if (tag == Tag::kComment) {
      Advance(2 + (sign != '\0'));
      return ReadComment();
    }
    Push(tag == Tag::kVariable ? TokenKind::kVariableBegin : TokenKind::kBlockBegin);
    Advance(2 + (sign != '\0'));
    return ReadTag(tag == Tag::kVariable);
  }

  // After the closing "%}" or "#}" of a tag that ended with `sign`.
  void AfterTag(char sign) {
    if (sign == '-') {
      SkipSpace();
    } else if (sign != '+' && StartsWith("\n")) {
      Advance(1);
    }
  }

  Status ReadComment() {
    const size_t end = Rest().find("#}");
    if (end == std::string_view::npos) return Fail("Missing end of comment tag");
    const char before = end > 0 ? Rest()[end - 1] : '\0';
    Advance(end + 2);
    AfterTag(before);
    return {};
  }

  Status ReadRaw() {
    for (size_t at = position_; (at = source_.find("{%", at)) != std::string::npos; ++at) {
      char close = '\0';
      const size_t size = MatchRawTag(at, "endraw", &close);
      if (size == 0) continue;
      PushData(BeforeTag(Rest().substr(0, at - position_), SignAt(at + 2), false));
      Advance(at - position_ + size);
      AfterTag(close);
      return {};
    }
    return Fail("Missing end of raw directive");
  }

  // The inside of {{ }} or {% %} up to its end.
  Status ReadTag(bool variable) {
    const std::string_view end = variable ? "}}" : "%}";
    closers_.clear();
    while (position_ < source_.size()) {
      if (closers_.empty()) {
        const char sign = SignAt(position_);
        const size_t signs = sign == '-' || (sign == '+' && !variable) ? 1 : 0;
        if (Rest().substr(signs, 2) == end) {
          Push(variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd);
          Advance(signs + 2);
          if (!variable) AfterTag(sign);
          if (variable && signs > 0) SkipSpace();
          return {};
        }
      }
      MINIMO_TRY(ReadToken());
    }
    return {};
  }

  Status ReadToken() {
    size_t next = position_;
    const char32_t c = DecodeAt(source_, next);
    if (IsSpace(c)) {
      SkipSpace();
      return {};
    }
    if (c < 0x80 && IsAsciiDigit(static_cast<char>(c))) return ReadNumber();
    if (c == '\'' || c == '"') return ReadString(static_cast<char>(c));
    if (IsWord(c) || c > 0x7f) return ReadName();
    return ReadOperator();
  }

  Status ReadName() {
    size_t end = position_;
    for (size_t next = end; next < source_.size(); end = next) {
      const char32_t c = DecodeAt(source_, next);
      if (!IsWord(c) && !(c > 0x7f && IsPrintable(c))) break;
    }
    const std::string name = source_.substr(position_, end - position_);
    if (name.empty()) return Fail(fmt::format("unexpected char at {}", position_));
    if (!IsIdentifier(name)) return Fail("Invalid character in identifier");
    Push(TokenKind::kName, name);
    Advance(name.size());
    return {};
  }

  // Digits with single underscores between them, from `at`; returns the end.
  size_t Digits(size_t at, int base = 10) const {
    const auto is_digit = [&](size_t i) {
      if (i >= source_.size()) return false;
      const char c = source_[i];
      const int digit = IsAsciiDigit(c) ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 99;
      return digit < base;
    };
    while (is_digit(at) || (at < source_.size() && source_[at] == '_' && is_digit(at + 1))) ++at;
    return at;
  }

  Status PushInteger(std::string digits, int base, size_t bytes) {
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    Token token;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), token.integer, base);
    if (parsed.ec != std::errc()) return Fail("the integer is too large");
    token.kind = TokenKind::kInteger;
    token.line = line_;
    tokens_.push_back(std::move(token));
    Advance(bytes);
    return {};
  }

  Status ReadNumber() {
    const size_t start = position_;
    const char mark = start + 1 < source_.size() ? static_cast<char>(source_[start + 1] | 32) : '\0';
    const int base = source_[start] != '0' ? 10 : mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
    if (base != 10) {
      const size_t end = Digits(start + 2, base);
      if (end > start + 2) return PushInteger(source_.substr(start + 2, end - start - 2), base, end - start);
    }
    const size_t whole = Digits(start);
    size_t end = whole;
    const bool after_dot = start > 0 && source_[start - 1] == '.';
    if (!after_dot) {
      if (end + 1 < source_.size() && source_[end] == '.' && IsAsciiDigit(source_[end + 1])) end = Digits(end + 1);
      if (end < source_.size() && (source_[end] | 32) == 'e') {
        const size_t sign = end + 1 < source_.size() && (source_[end + 1] == '+' || source_[end + 1] == '-') ? 1 : 0;
        const size_t exponent = end + 1 + sign;
        if (exponent < source_.size() && IsAsciiDigit(source_[exponent])) end = Digits(exponent);
      }
    }
    if (end == whole) {
      // "007" is three tokens in Jinja: zeros stand alone.
      size_t stop = start;
      if (source_[start] == '0') {
        while (stop < whole && (source_[stop] == '0' || source_[stop] == '_')) ++stop;
      } else {
        stop = whole;
      }
      return PushInteger(source_.substr(start, stop - start), 10, stop - start);
    }
    std::string digits = source_.substr(start, end - start);
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    Push(TokenKind::kFloat);
    tokens_.back().number = std::strtod(digits.c_str(), nullptr);
    Advance(end - start);
    return {};
  }

  Status ReadString(char quote) {
    std::string text;
    size_t i = position_ + 1;
    for (; i < source_.size() && source_[i] != quote;) {
      if (source_[i] != '\\') {
        text += source_[i++];
        continue;
      }
      if (i + 1 >= source_.size()) break;
      MINIMO_ASSIGN(i, Unescape(i + 1, text));
    }
    if (i >= source_.size()) return Fail(fmt::format("unexpected char '{}' at {}", quote, position_));
    Push(TokenKind::kString, std::move(text));
    Advance(i + 1 - position_);
    return {};
  }

  // The escape whose letter is at `at`, as Python's unicode-escape reads it; returns where the text goes on.
  Result<size_t> Unescape(size_t at, std::string& text) {
    const char c = source_[at];
    static constexpr std::string_view kLetters = "abfnrtv\\'\"";
    static constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
    if (const size_t index = kLetters.find(c); index != kLetters.npos) {
      text += kMeanings[index];
      return at + 1;
    }
    if (c == '\n') return at + 1;
    if (c >= '0' && c <= '7') {
      uint32_t code = 0;
      size_t end = at;
      for (; end < at + 3 && end < source_.size() && source_[end] >= '0' && source_[end] <= '7'; ++end) {
        code = code * 8 + static_cast<uint32_t>(source_[end] - '0');
      }
      AppendUtf8(text, code);
      return end;
    }
    const size_t count = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (count == 0) {
      if (c == 'N') return Fail("\\N{...} escapes are not supported");
      text += '\\';
      return at;
    }
    uint32_t code = 0;
    const char* first = source_.data() + at + 1;
    const char* last = first + std::min(count, source_.size() - at - 1);
    const auto parsed = std::from_chars(first, last, code, 16);
    if (parsed.ptr != first + count) return Fail(fmt::format("truncated \\{} escape", c));
    if (code > 0x10ffff) return Fail("illegal Unicode character");
    AppendUtf8(text, code);
    return at + 1 + count;
  }

  Status ReadOperator() {
    for (const std::string_view op : kOperators) {
      if (!StartsWith(op)) continue;
      if (op == "{" || op == "(" || op == "[") closers_ += op == "{" ? '}' : op == "(" ? ')' : ']';
      if (op == "}" || op == ")" || op == "]") {
        if (closers_.empty()) return Fail(fmt::format("unexpected '{}'", op));
        const char expected = closers_.back();
        closers_.pop_back();
        if (expected != op[0]) return Fail(fmt::format("unexpected '{}', expected '{}'", op, expected));
      }
      Push(TokenKind::kOperator, std::string(op));
      Advance(op.size());
      return {};
    }
    return Fail(fmt::format("unexpected char {} at {}", "'" + source_.substr(position_, 1) + "'", position_));
  }

  std::string source_;
  size_t position_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // what was read last ended a line
  std::string closers_;        // brackets that wait to be closed
  std::vector<Token> tokens_;
};

}  // namespace

Result<std::vector<Token>> Tokenize(std::string_view source) {
  if (!ValidUtf8(source)) return Errorf("the template is not valid UTF-8");
  return Lexer(NormalizeNewlines(source)).Run();
}

std::string Describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kData: return "template data / text";
    case TokenKind::kBlockBegin: return "begin of statement block";
    case TokenKind::kBlockEnd: return "end of statement block";
    case TokenKind::kVariableBegin: return "begin of print statement";
    case TokenKind::kVariableEnd: return "end of print statement";
    case TokenKind::kString: return "string";
    case TokenKind::kInteger: return "integer";
    case TokenKind::kFloat: return "float";
    case TokenKind::kEnd: return "end of template";
    case TokenKind::kName:
    case TokenKind::kOperator: return token.text;
  }
  return "";
}

}  // namespace minimo::jinja
