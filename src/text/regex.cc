#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>

#include "base/error.h"
#include "text/regex_syntax.h"
#include "text/unicode_pins.h"

namespace minimo {
namespace {

template <auto free>
struct Free {
  template <typename T>
  void operator()(T* p) const { free(p); }
};
using CodePtr = std::unique_ptr<pcre2_code, Free<pcre2_code_free>>;
using CompileContextPtr = std::unique_ptr<pcre2_compile_context, Free<pcre2_compile_context_free>>;
using MatchContextPtr = std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>>;
using MatchDataPtr = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>>;
using JitStackPtr = std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>>;

// A pattern may backtrack this often in one match before it is given up: about a second.
constexpr uint32_t kMatchLimit = 100'000'000;
constexpr size_t kJitStackStart = 32 << 10, kJitStackMax = 64 << 20;  // bytes

std::string Pcre2Message(int code) {
  PCRE2_UCHAR buffer[256];
  return pcre2_get_error_message(code, buffer, sizeof(buffer)) < 0 ? fmt::format("PCRE2 error {}", code)
                                                                   : reinterpret_cast<const char*>(buffer);
}

// The state of one walk through a text.
class Matcher {
 public:
  explicit Matcher(const pcre2_code* code)
      : code_(code), data_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)) {
    if (context_) pcre2_set_match_limit(context_.get(), kMatchLimit);
  }

  // 1: a match, in `range`; 0: none; an error of PCRE2 below.
  int Match(std::string_view text, size_t start, std::pair<size_t, size_t>* range) {
    if (!data_ || !context_) return PCRE2_ERROR_NOMEMORY;
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int rc = Try(subject, text.size(), start, 0);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !stack_) {
      stack_.reset(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr));
      pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
      rc = Try(subject, text.size(), start, 0);
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = Try(subject, text.size(), start, PCRE2_NO_JIT);
    if (rc == PCRE2_ERROR_NOMATCH) return 0;
    if (rc < 0) return rc;
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data_.get());
    *range = {offsets[0], offsets[1]};
    return 1;
  }

 private:
  int Try(PCRE2_SPTR subject, size_t size, size_t start, uint32_t options) {
    return pcre2_match(code_, subject, size, start, options | PCRE2_NO_UTF_CHECK, data_.get(), context_.get());
  }

  const pcre2_code* code_;
  MatchDataPtr data_;
  MatchContextPtr context_;
  JitStackPtr stack_;
};

}  // namespace

struct Regex::Code {
  CodePtr pcre2;
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::~Regex() = default;

Result<std::unique_ptr<const Regex>> Regex::Compile(std::string_view pattern) {
  auto translated = OnigurumaToPcre2(pattern);
  if (!translated.ok()) return Errorf("pattern \"{}\": {}", pattern, translated.error().message);
  const CompileContextPtr context(pcre2_compile_context_create(nullptr));
  if (!context) return Errorf("out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Oniguruma's ^ and $ always match at lines.
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  auto code = std::make_unique<Code>();
  code->pcre2.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(), kOptions,
                                  &error, &offset, context.get()));
  if (!code->pcre2) return Errorf("pattern \"{}\": {}", pattern, Pcre2Message(error));
  (void)pcre2_jit_compile(code->pcre2.get(), PCRE2_JIT_COMPLETE);  // where there is no JIT, pcre2_match interprets
  return std::unique_ptr<const Regex>(new Regex(std::move(code)));
}

Result<std::unique_ptr<const Regex>> Regex::CompileLiteral(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (std::string_view("\\.+*?()|[]{}^$#&-~").find(c) != std::string_view::npos) escaped += '\\';
    escaped += c;
  }
  return Compile(escaped);
}

Status Regex::FindAll(std::string_view text, const std::function<void(size_t, size_t)>& on_match) const {
  std::string storage;
  const std::string_view subject = PinnedForRegex(text, &storage);
  Matcher matcher(code_->pcre2.get());
  size_t start = 0;
  size_t last_end = subject.size() + 1;  // of the match before; no offset at first
  while (start <= subject.size()) {
    std::pair<size_t, size_t> range;
    const int found = matcher.Match(subject, start, &range);
    if (found == 0) break;
    if (found < 0) return Errorf("the tokenizer's pattern gives up on this text: {}", Pcre2Message(found));
    const auto [begin, end] = range;
    if (begin > end || begin < start) return Errorf("the tokenizer's pattern matches backwards");
    if (begin == end && end == last_end) {  // step over one character
      ++start;
      while (start < subject.size() && (static_cast<uint8_t>(subject[start]) & 0xC0) == 0x80) ++start;
      continue;
    }
    on_match(begin, end);
    start = last_end = end;
  }
  return {};
}

}  // namespace minimo
