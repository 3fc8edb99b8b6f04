// Strings and numbers of a schema.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "grammar/formats.h"
#include "grammar/regex.h"
#include "grammar/schema_compiler.h"
#include "grammar/utf8_bytes.h"

namespace minimo::grammar {
namespace {

constexpr uint32_t kMaxCountedByDfa = 2000;   // characters, where a length bound meets a pattern
constexpr uint32_t kMaxParameterLength = 500; // bounds beyond it are not enforced in bare parameters

Dfa LengthDfa(uint32_t min, uint32_t max) {
  Dfa dfa;
  const uint32_t counted = max == kUnbounded ? min : max;
  for (uint32_t i = 0; i <= counted; ++i) {
    Dfa::State state;
    state.accepting = i >= min;
    const bool last = i == counted;
    if (!last || max == kUnbounded) {
      for (const Range& r : AllScalars())
        state.edges.push_back({r.low, r.high, static_cast<int32_t>(last ? i : i + 1)});
    }
    dfa.states.push_back(std::move(state));
  }
  return dfa;
}

// -1, 0, 1: how two plain decimals compare.
int CompareDecimals(const std::string& a, const std::string& b) {
  const auto parts = [](const std::string& text) {
    const bool negative = text[0] == '-';
    const size_t begin = negative, point = std::min(text.find('.'), text.size());
    std::string whole = text.substr(begin, point - begin);
    whole.erase(0, std::min(whole.find_first_not_of('0'), whole.size()));
    std::string fraction = point < text.size() ? text.substr(point + 1) : "";
    fraction.erase(fraction.find_last_not_of('0') + 1);
    return std::tuple(negative && !(whole.empty() && fraction.empty()), whole, fraction);
  };
  const auto [a_negative, a_whole, a_fraction] = parts(a);
  const auto [b_negative, b_whole, b_fraction] = parts(b);
  if (a_negative != b_negative) return a_negative ? -1 : 1;
  int order = a_whole.size() != b_whole.size() ? (a_whole.size() < b_whole.size() ? -1 : 1) : a_whole.compare(b_whole);
  if (order == 0) order = a_fraction.compare(b_fraction);
  order = order < 0 ? -1 : order > 0;
  return a_negative ? -order : order;
}

}  // namespace

const Result<Dfa>& SchemaCompiler::Search(const std::string& pattern, RegexBound bound) {
  const auto key = std::pair(pattern, bound);
  const auto it = searches_.find(key);
  return it != searches_.end() ? it->second : searches_.emplace(key, CompileSearch(pattern, bound)).first->second;
}

Status SchemaCompiler::LengthLimits(const Conjunction& conjunction, uint32_t* min, uint32_t* max) {
  for (const auto& [schema, flags] : conjunction) {
    MINIMO_ASSIGN(const auto least, Count(*schema, "minLength"));
    MINIMO_ASSIGN(const auto most, Count(*schema, "maxLength"));
    if (least) *min = std::max(*min, *least);
    if (most) *max = std::min(*max, *most);
  }
  return {};
}

Result<std::optional<Dfa>> SchemaCompiler::StringDfa(const Conjunction& conjunction, uint32_t min, uint32_t max) {
  std::optional<Dfa> all;
  const auto constrain = [&](const Json& schema, const char* key, const Result<Dfa>& dfa) -> Status {
    if (!dfa.ok()) return Fault(schema, key, dfa.error().message);
    if (!all.has_value()) {
      all = *dfa;
      return {};
    }
    auto both = Intersect(*all, *dfa);
    if (!both.ok()) return Fault(schema, key, both.error().message);
    all = std::move(*both);
    return {};
  };
  const Json* last = nullptr;
  for (const auto& [schema, flags] : conjunction) {
    if (const auto it = schema->find("pattern"); it != schema->end()) {
      if (!it->is_string()) return Fault(*schema, "pattern", "expected a string");
      const RegexBound bound = looking_for_overlap_ ? RegexBound::kOuter : RegexBound::kInner;
      MINIMO_TRY(constrain(*schema, "pattern", Search(it->get_ref<const std::string&>(), bound)));
      last = schema;
    }
    if (const auto it = schema->find("format"); it != schema->end() && !looking_for_overlap_) {
      if (!it->is_string()) return Fault(*schema, "format", "expected a string");
      const auto pattern = PatternOfFormat(it->get_ref<const std::string&>());
      if (!pattern.ok()) return Fault(*schema, "format", pattern.error().message);
      if (pattern->empty()) continue;
      MINIMO_TRY(constrain(*schema, "format", Search(*pattern, RegexBound::kInner)));
      last = schema;
    }
  }
  if (!all.has_value() || (min == 0 && max == kUnbounded)) return all;
  if (min > kMaxCountedByDfa || (max != kUnbounded && max > kMaxCountedByDfa)) {
    // A long upper bound on a short pattern bounds nothing; otherwise it cannot be counted.
    return Fault(*last, "maxLength", fmt::format("beside a pattern or format, lengths up to {} are supported",
                                                 kMaxCountedByDfa));
  }
  MINIMO_TRY(constrain(*last, "maxLength", LengthDfa(min, max)));
  return all;
}

Result<ExprId> SchemaCompiler::String(const Conjunction& conjunction, Form form) {
  uint32_t min = 0, max = kUnbounded;
  MINIMO_TRY(LengthLimits(conjunction, &min, &max));
  if (min > max) return builder_.Never();
  if (form == Form::kParameter) {
    if (min > kMaxParameterLength) min = 0;
    if (max > kMaxParameterLength) max = kUnbounded;
  }
  MINIMO_ASSIGN(std::optional<Dfa> dfa, StringDfa(conjunction, min, max));
  if (form == Form::kJson) {
    if (!dfa.has_value()) return builder_.Sequence({builder_.Literal("\""), builder_.StringBody(min, max)});
    const auto bytes = AsJsonString(*dfa);
    if (!bytes.ok()) return Fault(*conjunction[0].first, "pattern", bytes.error().message);
    return builder_.Leaf(*bytes);
  }
  // Bare text up to the closing tag, which it must not hold.
  MINIMO_ASSIGN(const Dfa with_tag, Search("</parameter>", RegexBound::kInner));
  MINIMO_ASSIGN(Dfa text, Complement(with_tag));
  if (!dfa.has_value() && (min > 0 || max != kUnbounded)) dfa = LengthDfa(min, max);
  if (dfa.has_value()) {
    MINIMO_ASSIGN(text, Intersect(text, *dfa));
  }
  MINIMO_ASSIGN(const Dfa bytes, AsPlainBytes(text));
  return bytes.states.size() == 1 && bytes.states[0].edges.empty() ? builder_.Empty() : builder_.Leaf(bytes);
}

Status SchemaCompiler::AddBound(const Json& schema, const char* key, NumberLimits* limits, bool* impossible) {
  const auto it = schema.find(key);
  if (it == schema.end()) return {};
  if (!it->is_number()) return Fault(schema, key, "expected a number");
  const bool is_low = std::string_view(key).find("inimum") != std::string_view::npos;
  Bound bound;
  bound.exclusive = key[0] == 'e';
  if (it->is_number_integer()) {
    bound.decimal = it->dump();
  } else {
    const double value = it->get<double>();
    const auto decimal = PlainDecimal(value);
    if (!decimal.has_value()) {
      if (std::fabs(value) < 1) return Fault(schema, key, "a bound this close to zero is not supported");
      *impossible |= is_low == (value > 0);  // beyond every number that is written; else it bounds nothing
      return {};
    }
    bound.decimal = *decimal;
  }
  std::optional<Bound>& slot = is_low ? limits->low : limits->high;
  const int order = slot.has_value() ? CompareDecimals(bound.decimal, slot->decimal) : 0;
  if (!slot.has_value() || (is_low ? order > 0 : order < 0)) {
    slot = bound;
  } else if (order == 0) {
    slot->exclusive |= bound.exclusive;
  }
  return {};
}

Status SchemaCompiler::AddMultiple(const Json& schema, NumberLimits* limits) {
  const auto it = schema.find("multipleOf");
  if (it == schema.end()) return {};
  const double value = it->is_number() ? it->get<double>() : 0;
  if (!(value > 0)) return Fault(schema, "multipleOf", "expected a number greater than 0");
  if (value != std::floor(value) || value > 1000) {
    return Fault(schema, "multipleOf", "only integers from 1 to 1000 are supported");
  }
  const int64_t multiple = static_cast<int64_t>(value);
  limits->multiple_of = limits->multiple_of == 0 ? multiple : std::lcm(limits->multiple_of, multiple);
  if (limits->multiple_of > 1000) return Fault(schema, "multipleOf", "the least common multiple exceeds 1000");
  return {};
}

Result<ExprId> SchemaCompiler::Number(const Conjunction& conjunction, bool integers_only) {
  NumberLimits limits;
  bool impossible = false;
  for (const auto& [schema, flags] : conjunction) {
    for (const char* key : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}) {
      MINIMO_TRY(AddBound(*schema, key, &limits, &impossible));
    }
    MINIMO_TRY(AddMultiple(*schema, &limits));
  }
  if (impossible) return builder_.Never();
  const bool integers = integers_only || limits.multiple_of > 0;
  const auto dfa = integers ? IntegerDfa(limits) : NumberDfa(limits);
  if (!dfa.ok())
    return Fault(*conjunction[0].first, limits.multiple_of > 0 ? "multipleOf" : "minimum", dfa.error().message);
  return builder_.Leaf(*dfa, /*keep=*/!limits.low && !limits.high && limits.multiple_of == 0);
}

}  // namespace minimo::grammar
