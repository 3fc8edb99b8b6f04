// How Python writes values: str(), repr(), json.dumps(), and its two formatting languages.
#pragma once

#include <string>

#include "minimo/result.h"
#include "text/jinja/value.h"

namespace minimo::jinja {

std::string Str(const Value& value);
std::string Repr(const Value& value);
std::string FloatRepr(double value);            // the shortest digits that read back as the same number: "1e-05", "2.0"
std::string StringRepr(std::string_view text);  // quoted, with escapes
std::string EscapeHtml(std::string_view text);  // markupsafe: & < > ' "

struct JsonStyle {
  bool ascii_only = false;
  std::string indent;  // one level's; with `multiline`
  bool multiline = false;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
Result<std::string> ToJson(const Value& value, const JsonStyle& style);

// format(value, spec) of numbers and strings: "{:>8.2f}".
Result<std::string> FormatSpec(Runtime& runtime, const Value& value, std::string_view spec);
// "%s of %d" % values; `values` is a tuple, a dict or one value.
Result<std::string> PercentFormat(Runtime& runtime, std::string_view format, const Value& values);
// "{} of {name}".format(*args).
Result<std::string> BraceFormat(Runtime& runtime, std::string_view format, const Args& args);

}  // namespace minimo::jinja
