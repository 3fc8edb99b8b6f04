#include "grammar/schema_compiler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "base/error.h"
#include "grammar/runtime.h"
#include "grammar/utf8_bytes.h"

namespace minimo::grammar {
namespace {

constexpr size_t kMaxRules = 30'000;
constexpr int kMaxNesting = 4;
constexpr size_t kMaxActive = 200;        // $ref and allOf inside one another without a value between
constexpr size_t kMaxOneOf = 64;
constexpr int kOverlapDepth = 4;          // levels that are looked at to tell the branches of a oneOf apart
constexpr double kExactInteger = 9007199254740992.0;  // 2^53

// Keywords that would have to be honoured and are not.
constexpr std::array<std::string_view, 15> kUnsupported = {
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "dependentRequired", "dependentSchemas",
    "dependencies", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef", "$anchor"};

constexpr std::array<std::string_view, 6> kObjectKeywords = {"properties",    "required",      "additionalProperties",
                                                             "minProperties", "maxProperties", "patternProperties"};
constexpr std::array<std::string_view, 6> kArrayKeywords = {"items",    "prefixItems", "minItems",
                                                            "maxItems", "uniqueItems", "additionalItems"};
constexpr std::array<std::string_view, 4> kStringKeywords = {"pattern", "format", "minLength", "maxLength"};
constexpr std::array<std::string_view, 5> kNumberKeywords = {"minimum", "maximum", "exclusiveMinimum",
                                                             "exclusiveMaximum", "multipleOf"};

template <size_t N>
bool HasAny(const Json& schema, const std::array<std::string_view, N>& keys) {
  return std::any_of(keys.begin(), keys.end(), [&](std::string_view key) { return schema.contains(key); });
}

std::string EscapePointer(std::string key) {
  for (size_t i = 0; i < key.size(); ++i) {
    if (key[i] == '~' || key[i] == '/') key.replace(i, 1, key[i] == '~' ? "~0" : "~1"), ++i;
  }
  return key;
}

std::string UnescapePointer(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '~' && i + 1 < text.size()) {
      out += text[++i] == '0' ? '~' : '/';
    } else if (text[i] == '%' && i + 2 < text.size()) {
      out += static_cast<char>(std::strtol(std::string(text.substr(i + 1, 2)).c_str(), nullptr, 16));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

SchemaCompiler::SchemaCompiler(GrammarBuilder* builder, const Json& root, const SchemaOptions& options)
    : builder_(*builder), root_(root), options_(options), json_(builder, options.flexible_whitespace),
      budget_(&own_budget_) {}

SchemaCompiler::SchemaCompiler(GrammarBuilder* builder, const SchemaCompiler& outer, bool looking_for_overlap)
    : builder_(*builder), root_(outer.root_), options_(outer.options_), json_(builder, false), parents_(outer.parents_),
      budget_(outer.budget_), looking_for_overlap_(looking_for_overlap || outer.looking_for_overlap_) {}

std::string SchemaCompiler::PathOf(const Json& schema) const {
  std::string path;
  const Json* at = &schema;
  for (int i = 0; i < 1000; ++i) {
    const auto it = parents_.find(at);
    if (it == parents_.end()) break;
    path = "/" + it->second.second + path;
    at = it->second.first;
  }
  return path.empty() ? "the schema" : "#" + path;
}

Error SchemaCompiler::Fault(const Json& schema, std::string_view keyword, std::string_view message) const {
  if (keyword.empty()) return Errorf("{}: {}", PathOf(schema), message);
  return Errorf("\"{}\" in {}: {}", keyword, PathOf(schema), message);
}

const Json* SchemaCompiler::Child(const Json& parent, const Json& child, const std::string& key) {
  parents_.try_emplace(&child, &parent, key);
  return &child;
}

Result<std::optional<uint32_t>> SchemaCompiler::Count(const Json& schema, const char* key) {
  const auto it = schema.find(key);
  if (it == schema.end()) return std::optional<uint32_t>();
  const double value = it->is_number() ? it->get<double>() : -1;
  if (!(value >= 0) || value != std::floor(value)) return Fault(schema, key, "expected an integer of at least 0");
  return std::optional<uint32_t>(value >= 1e9 ? kUnbounded - 1 : static_cast<uint32_t>(value));
}

Result<const Json*> SchemaCompiler::ObjectAt(const Json& schema, const char* key) {
  const auto it = schema.find(key);
  if (it == schema.end()) return static_cast<const Json*>(nullptr);
  if (!it->is_object()) return Fault(schema, key, "expected an object");
  return &*it;
}

Result<ExprId> SchemaCompiler::Compile(const Json& schema, Form form) {
  MINIMO_ASSIGN(const ExprId root, Value({{&schema, 0}}, form, 0));
  MINIMO_TRY(RunJobs());
  return root;
}

Status SchemaCompiler::RunJobs() {
  while (!jobs_.empty()) {
    const Job job = std::move(jobs_.back());
    jobs_.pop_back();
    MINIMO_ASSIGN(const ExprId body, Body(job.conjunction, job.form, job.depth));
    builder_.SetRule(job.rule, body);
    if (builder_.TooLarge()) return Error{"the schema is too large to be compiled"};
  }
  return {};
}

// The rule of a conjunction; its body is a job for later, so that deep schemas need no deep recursion.
Result<ExprId> SchemaCompiler::Value(Conjunction elements, Form form, int depth) {
  if (looking_for_overlap_ && depth > kOverlapDepth) return builder_.Literal("x");
  Conjunction conjunction;
  for (const Element& element : elements) {
    std::vector<const Json*> active;
    MINIMO_ASSIGN(const bool possible, Flatten(element, &conjunction, &active));
    if (!possible) return builder_.Never();
  }
  std::sort(conjunction.begin(), conjunction.end());
  conjunction.erase(std::unique(conjunction.begin(), conjunction.end()), conjunction.end());
  if (conjunction.empty()) {
    if (form == Form::kParameter) return String(conjunction, form);
    return json_.AnyValue();
  }
  const int level = looking_for_overlap_ ? depth : 0;
  const auto [it, is_new] = rules_.try_emplace({conjunction, form, level}, 0);
  if (!is_new) return it->second;
  if (++budget_->rules > kMaxRules)
    return Error{"the schema is too large to be compiled: its parts combine to too many"};
  it->second = builder_.NewRule();
  jobs_.push_back({std::move(conjunction), form, depth, it->second});
  return it->second;
}

// Follows $ref and allOf. False if nothing satisfies the element.
Result<bool> SchemaCompiler::Flatten(const Element& element, Conjunction* out, std::vector<const Json*>* active) {
  const Json& schema = *element.first;
  if (element.second & kFlat) {
    out->push_back(element);
    return true;
  }
  if (schema.is_boolean()) return schema.get<bool>();
  if (!schema.is_object()) return Fault(schema, "", "expected a schema (an object or a boolean)");
  if (std::find(active->begin(), active->end(), &schema) != active->end()) {
    return Fault(schema, "$ref", "it refers to itself without a value in between");
  }
  if (active->size() > kMaxActive) return Fault(schema, "$ref", "too many references in a row");
  MINIMO_TRY(CheckKeywords(schema));
  active->push_back(&schema);
  out->emplace_back(&schema, element.second | kFlat);
  if (out->size() > 1000) return Fault(schema, "allOf", "too many schemas at once");
  const uint32_t inherited = element.second & kClosed;
  if (const auto ref = schema.find("$ref"); ref != schema.end()) {
    if (!ref->is_string()) return Fault(schema, "$ref", "expected a string");
    MINIMO_ASSIGN(const Json* target, Resolve(schema, ref->get_ref<const std::string&>()));
    MINIMO_ASSIGN(const bool possible, Flatten({target, inherited}, out, active));
    if (!possible) return false;
  }
  if (const auto all = schema.find("allOf"); all != schema.end()) {
    if (!all->is_array()) return Fault(schema, "allOf", "expected an array");
    for (size_t i = 0; i < all->size(); ++i) {
      const Json* part = Child(schema, (*all)[i], "allOf/" + std::to_string(i));
      MINIMO_ASSIGN(const bool possible, Flatten({part, inherited}, out, active));
      if (!possible) return false;
    }
  }
  active->pop_back();
  return true;
}

Result<const Json*> SchemaCompiler::Resolve(const Json& schema, const std::string& reference) {
  if (reference.empty() || reference[0] != '#' || (reference.size() > 1 && reference[1] != '/')) {
    return Fault(schema, "$ref", "only references inside the schema are supported (\"#/$defs/...\")");
  }
  const Json* at = &root_;
  std::string_view rest = std::string_view(reference).substr(1);
  std::string path;
  while (!rest.empty()) {
    rest.remove_prefix(1);
    const size_t slash = std::min(rest.find('/'), rest.size());
    const std::string key = UnescapePointer(rest.substr(0, slash));
    rest.remove_prefix(slash);
    const Json* next = nullptr;
    if (at->is_object() && at->contains(key)) {
      next = &at->at(key);
    } else if (at->is_array() && !key.empty() && key.size() < 7 &&
               key.find_first_not_of("0123456789") == std::string::npos && std::stoul(key) < at->size()) {
      next = &(*at)[std::stoul(key)];
    }
    if (next == nullptr) return Fault(schema, "$ref", fmt::format("\"{}\" leads nowhere", reference));
    at = Child(*at, *next, EscapePointer(key));
  }
  return at;
}

Status SchemaCompiler::CheckKeywords(const Json& schema) {
  for (const std::string_view key : kUnsupported) {
    const auto it = schema.find(key);
    if (it == schema.end()) continue;
    // In strict mode nothing is written but what the schema names, and that is evaluated.
    const bool unevaluated = key == "unevaluatedProperties" || key == "unevaluatedItems";
    if (unevaluated && ((it->is_boolean() && it->get<bool>()) || options_.strict)) continue;
    if (key == "$anchor") continue;
    return Fault(schema, key, "this keyword is not supported");
  }
  return {};
}

Result<ExprId> SchemaCompiler::Body(const Conjunction& conjunction, Form form, int depth) {
  for (const Element& element : conjunction) {
    if (element.first->contains("anyOf") && !(element.second & kAnyOfDone)) {
      return Branches(conjunction, element, "anyOf", form, depth);
    }
    if (element.first->contains("oneOf") && !(element.second & kOneOfDone)) {
      return Branches(conjunction, element, "oneOf", form, depth);
    }
  }
  MINIMO_ASSIGN(const uint32_t types, TypesOf(conjunction));
  for (const Element& element : conjunction) {
    if (!(element.second & kEnumDone) && (element.first->contains("enum") || element.first->contains("const"))) {
      return Enumeration(conjunction, types, form);
    }
  }
  std::vector<ExprId> kinds;
  if (types & kNull) kinds.push_back(builder_.Literal("null"));
  if (types & kBoolean) kinds.insert(kinds.end(), {builder_.Literal("true"), builder_.Literal("false")});
  if (types & kInteger) {
    MINIMO_ASSIGN(const ExprId number, Number(conjunction, !(types & kFraction)));
    kinds.push_back(number);
  }
  if (types & kString) {
    MINIMO_ASSIGN(const ExprId string, String(conjunction, form));
    kinds.push_back(string);
  }
  if (types & kArray) {
    MINIMO_ASSIGN(const ExprId array, Array(conjunction, depth));
    kinds.push_back(array);
  }
  if (types & kObject) {
    MINIMO_ASSIGN(const ExprId object, Object(conjunction, depth));
    kinds.push_back(object);
  }
  return builder_.Alternatives(std::move(kinds));
}

// The conjunction once with each branch of an anyOf or oneOf.
Result<ExprId> SchemaCompiler::Branches(const Conjunction& conjunction, const Element& element, const char* keyword,
                                        Form form, int depth) {
  const bool is_one_of = std::string_view(keyword) == "oneOf";
  const Json& branches = element.first->at(keyword);
  if (!branches.is_array() || branches.empty()) {
    return Fault(*element.first, keyword, "expected an array with at least one schema");
  }
  for (size_t i = 0; i < branches.size(); ++i) {
    Child(*element.first, branches[i], fmt::format("{}/{}", keyword, i));
  }
  Conjunction rest = conjunction;
  std::find(rest.begin(), rest.end(), element)->second |= is_one_of ? kOneOfDone : kAnyOfDone;
  if (is_one_of && !looking_for_overlap_) MINIMO_TRY(CheckExclusive(rest, element, branches));
  std::vector<ExprId> alternatives;
  for (const Json& branch : branches) {
    Conjunction with = rest;
    with.emplace_back(&branch, element.second & kClosed);
    MINIMO_ASSIGN(const ExprId value, Value(std::move(with), form, depth));
    alternatives.push_back(value);
  }
  return builder_.Alternatives(std::move(alternatives));
}

// That no text written for one branch of a oneOf satisfies another: their conjunction has no value.
Status SchemaCompiler::CheckExclusive(const Conjunction& rest, const Element& element, const Json& branches) {
  if (branches.size() > kMaxOneOf) return Fault(*element.first, "oneOf", "too many branches");
  for (size_t i = 0; i < branches.size(); ++i) {
    for (size_t j = 0; j < branches.size(); ++j) {
      if (i == j) continue;
      GrammarBuilder builder(builder_.grammar().vocabulary);
      SchemaCompiler overlap(&builder, *this, /*looking_for_overlap=*/true);
      Conjunction both = rest;
      for (Element& e : both) e.second |= kClosed;
      both.emplace_back(&branches[i], kClosed);
      both.emplace_back(&branches[j], 0);
      MINIMO_ASSIGN(const ExprId value, overlap.Value(std::move(both), Form::kJson, 0));
      MINIMO_TRY(overlap.RunJobs());
      builder.ComputeLengths();
      if (builder.grammar().exprs[value].min_bytes == kInfiniteLength) continue;
      return Fault(
          *element.first, "oneOf",
          fmt::format("a value may satisfy both branch {} and branch {}; use anyOf, or tell the branches apart "
                      "by their types, a const property or required properties",
                      i, j));
    }
  }
  return {};
}

Result<uint32_t> SchemaCompiler::TypesOf(const Conjunction& conjunction) {
  static const std::map<std::string_view, uint32_t> kNames = {
      {"null", kNull},     {"boolean", kBoolean}, {"integer", kInteger}, {"number", kInteger | kFraction},
      {"object", kObject}, {"array", kArray},     {"string", kString}};
  uint32_t types = kAllTypes;
  bool declared = false, enumerated = false;
  uint32_t implied = 0;
  for (const auto& [schema_pointer, flags] : conjunction) {
    const Json& schema = *schema_pointer;
    enumerated |= schema.contains("enum") || schema.contains("const");
    if (HasAny(schema, kObjectKeywords)) implied |= kObject;
    if (HasAny(schema, kArrayKeywords)) implied |= kArray;
    if (HasAny(schema, kStringKeywords)) implied |= kString;
    if (HasAny(schema, kNumberKeywords)) implied |= kInteger | kFraction;
    const auto type = schema.find("type");
    if (type == schema.end()) continue;
    declared = true;
    uint32_t named = 0;
    const auto add = [&](const Json& name) {
      const auto it = name.is_string() ? kNames.find(name.get_ref<const std::string&>()) : kNames.end();
      if (it == kNames.end()) return false;
      named |= it->second;
      return true;
    };
    const bool valid = type->is_array() ? !type->empty() && std::all_of(type->begin(), type->end(), add) : add(*type);
    if (!valid) {
      return Fault(schema, "type",
                   "expected null, boolean, integer, number, string, object or array, or a list of them");
    }
    types &= named;
  }
  // A schema that speaks of members, say, without a type means objects; JSON Schema would allow anything else too.
  if (!declared && !enumerated && implied != 0 && !looking_for_overlap_) types = implied;
  return types;
}

Result<std::vector<const Json*>> SchemaCompiler::EnumValues(const Conjunction& conjunction, uint32_t types) {
  std::vector<const Json*> values;
  bool first = true;
  for (const auto& [schema, flags] : conjunction) {
    for (const char* key : {"enum", "const"}) {
      const auto it = schema->find(key);
      if (it == schema->end()) continue;
      const bool is_list = std::string_view(key) == "enum";
      if (is_list && !it->is_array()) return Fault(*schema, key, "expected an array");
      std::vector<const Json*> listed;
      for (size_t i = 0; i < (is_list ? it->size() : 1); ++i) listed.push_back(is_list ? &(*it)[i] : &*it);
      if (first) {
        values = std::move(listed);
      } else {
        std::erase_if(values, [&](const Json* value) {
          return std::none_of(listed.begin(), listed.end(), [&](const Json* other) { return *value == *other; });
        });
      }
      first = false;
    }
  }
  const auto fits = [&](const Json& value) -> uint32_t {
    if (value.is_null()) return types & kNull;
    if (value.is_boolean()) return types & kBoolean;
    if (value.is_string()) return types & kString;
    if (value.is_array()) return types & kArray;
    if (value.is_object()) return types & kObject;
    const bool whole = value.is_number_integer() || std::floor(value.get<double>()) == value.get<double>();
    return types & (whole ? kInteger : kFraction);
  };
  std::erase_if(values, [&](const Json* value) { return fits(*value) == 0; });
  for (const Json* value : values) {
    if (value->is_number_float() && std::fabs(value->get<double>()) >= kExactInteger) {
      return Fault(*conjunction[0].first, "enum", "numbers beyond 2^53 are not supported");
    }
  }
  return values;
}

// Those that the rest of the conjunction allows, by running their text through its grammar.
Result<std::vector<const Json*>> SchemaCompiler::FilterByRest(const Conjunction& conjunction,
                                                              std::vector<const Json*> values) {
  Conjunction rest;
  bool constrains = false;
  for (Element element : conjunction) {
    element.second |= kEnumDone;
    rest.push_back(element);
    const Json& schema = *element.first;
    constrains |= HasAny(schema, kObjectKeywords) || HasAny(schema, kArrayKeywords) ||
                  HasAny(schema, kStringKeywords) || HasAny(schema, kNumberKeywords) ||
                  schema.contains("propertyNames");
  }
  if (!constrains || looking_for_overlap_) return values;
  if (budget_->nesting >= kMaxNesting) {
    return Fault(*conjunction[0].first, "enum", "too deeply nested beside other keywords");
  }
  GrammarBuilder builder(builder_.grammar().vocabulary);
  SchemaCompiler compiler(&builder, *this, false);
  ++budget_->nesting;
  auto value = compiler.Value(std::move(rest), Form::kJson, 0);
  const Status status = value.ok() ? compiler.RunJobs() : Status(value.error());
  --budget_->nesting;
  MINIMO_TRY(status);
  auto grammar = builder.Finish(*value);
  if (!grammar.ok()) return std::vector<const Json*>();
  Runtime runtime(*grammar);
  std::erase_if(values, [&](const Json* v) {
    const int32_t end = runtime.Advance(runtime.start(), v->dump());
    return end == Runtime::kDead || !runtime.CanEnd(end);
  });
  return values;
}

Result<ExprId> SchemaCompiler::Enumeration(const Conjunction& conjunction, uint32_t types, Form form) {
  MINIMO_ASSIGN(std::vector<const Json*> values, EnumValues(conjunction, types));
  MINIMO_ASSIGN(values, FilterByRest(conjunction, std::move(values)));
  std::vector<std::vector<uint32_t>> texts;
  for (const Json* value : values) {
    const std::string text = form == Form::kParameter && value->is_string() ? value->get<std::string>() : value->dump();
    std::vector<uint32_t> symbols;
    for (const char c : text) symbols.push_back(static_cast<uint8_t>(c));
    texts.push_back(std::move(symbols));
  }
  const Dfa dfa = DfaOfStrings(texts);
  if (texts.empty()) return builder_.Never();
  return dfa.states.size() == 1 ? builder_.Empty() : builder_.Leaf(dfa);
}

}  // namespace minimo::grammar
