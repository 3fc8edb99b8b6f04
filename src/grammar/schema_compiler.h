// JSON Schema (2020-12, and what older drafts have in common with it) to grammar expressions.
//
// Every value is described by a conjunction: the set of schema objects that it must satisfy together, gathered through
// $ref and allOf. Conjunctions are compiled once each, as rules, so that recursive schemas end. anyOf and oneOf branch
// a conjunction. What a text can be is never more than what the schemas allow; where a keyword cannot be honoured the
// compilation fails and names it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "grammar/grammar.h"
#include "grammar/json_text.h"
#include "grammar/number_dfa.h"
#include "grammar/regex.h"
#include "grammar/structured_output.h"
#include "minimo/result.h"

namespace minimo::grammar {

// JSON expressions that do not depend on a schema.
class JsonExprs {
 public:
  JsonExprs(GrammarBuilder* builder, bool flexible_whitespace) : builder_(*builder), flexible_(flexible_whitespace) {}

  // A literal with white space allowed at each '\x01'. The text must be ASCII or UTF-8.
  ExprId Spaced(const std::string& text);
  ExprId AnyValue(int depth = kAnyDepth);
  ExprId AnyObject(int depth = kAnyDepth);
  ExprId AnyArray(int depth = kAnyDepth);
  ExprId AnyString() { return builder_.Sequence({builder_.Literal("\""), builder_.StringBody(0, kUnbounded)}); }

  static constexpr int kAnyDepth = 24;  // of values that no schema describes

 private:
  ExprId Whitespace();

  GrammarBuilder& builder_;
  const bool flexible_;
  std::optional<ExprId> whitespace_;
  std::map<std::string, ExprId> spaced_;
  std::map<int, ExprId> values_, objects_, arrays_;
};

class SchemaCompiler {
 public:
  SchemaCompiler(GrammarBuilder* builder, const Json& root, const SchemaOptions& options);

  // How a value is written at its outermost level: as JSON, or as a tool call's parameter, where strings stand bare up
  // to the closing tag.
  enum class Form { kJson, kParameter };

  // The whole schema, or the part of it at `schema`.
  Result<ExprId> Compile(const Json& schema, Form form);

 private:
  // A schema object in a conjunction; flags: which of its keywords are dealt with already (kFlat: $ref and allOf), and
  // whether it is on the writing side of a question about overlap (kClosed).
  enum Flag : uint32_t { kAnyOfDone = 1, kOneOfDone = 2, kEnumDone = 4, kClosed = 8, kFlat = 16 };
  using Element = std::pair<const Json*, uint32_t>;
  using Conjunction = std::vector<Element>;  // sorted, distinct; only objects

  enum Type : uint32_t {
    kNull = 1, kBoolean = 2, kInteger = 4, kFraction = 8, kObject = 16, kArray = 32, kString = 64, kAllTypes = 127
  };

  struct Job {
    Conjunction conjunction;
    Form form;
    int depth;
    ExprId rule;
  };
  struct Budget {
    size_t rules = 0;
    int nesting = 0;  // compilers inside compilers
  };

  // schema_compiler.cc
  SchemaCompiler(GrammarBuilder* builder, const SchemaCompiler& outer, bool looking_for_overlap);
  Result<ExprId> Value(Conjunction elements, Form form, int depth);
  Status RunJobs();
  Result<ExprId> Body(const Conjunction& conjunction, Form form, int depth);
  Result<bool> Flatten(const Element& element, Conjunction* out, std::vector<const Json*>* active);
  Result<const Json*> Resolve(const Json& schema, const std::string& reference);
  Status CheckKeywords(const Json& schema);
  Result<ExprId> Branches(const Conjunction& conjunction, const Element& element, const char* keyword, Form form,
                          int depth);
  Status CheckExclusive(const Conjunction& rest, const Element& element, const Json& branches);
  Result<uint32_t> TypesOf(const Conjunction& conjunction);
  Result<ExprId> Enumeration(const Conjunction& conjunction, uint32_t types, Form form);
  Result<std::vector<const Json*>> EnumValues(const Conjunction& conjunction, uint32_t types);
  Result<std::vector<const Json*>> FilterByRest(const Conjunction& conjunction, std::vector<const Json*> values);

  // schema_scalar.cc
  const Result<Dfa>& Search(const std::string& pattern, RegexBound bound);  // each compiled once
  Result<ExprId> String(const Conjunction& conjunction, Form form);
  // All strings that fit, or nothing if any does but for the length.
  Result<std::optional<Dfa>> StringDfa(const Conjunction& conjunction, uint32_t min, uint32_t max);
  Status LengthLimits(const Conjunction& conjunction, uint32_t* min, uint32_t* max);
  Result<ExprId> Number(const Conjunction& conjunction, bool integers_only);
  Status AddBound(const Json& schema, const char* key, NumberLimits* limits, bool* impossible);
  Status AddMultiple(const Json& schema, NumberLimits* limits);

  // schema_array.cc
  Result<ExprId> Array(const Conjunction& conjunction, int depth);
  Result<ExprId> UniqueArray(const Conjunction& conjunction, const Conjunction& items, uint32_t min, uint32_t max);

  // schema_object.cc
  struct Property {
    std::string name;
    bool required = false;
    Conjunction schemas;
    bool forbidden = false;
  };
  struct NameClass {  // names that no property declares, by the patterns they match
    Dfa names;
    bool any_name = false;  // all strings
    Conjunction schemas;
  };
  struct ObjectPlan {
    std::vector<Property> properties;
    std::vector<NameClass> classes;
    uint32_t min = 0, max = kUnbounded;
  };
  Result<ExprId> Object(const Conjunction& conjunction, int depth);
  Status CollectProperties(const Conjunction& conjunction, ObjectPlan* plan);
  // By name, because the library looks members up one by one.
  using Declared = std::vector<std::unordered_map<std::string_view, const Json*>>;
  Status AddPropertySchemas(const Conjunction& conjunction, const Declared& declared, Property* property);
  Result<bool> NameRules(const Json& schema, Conjunction* names);
  Status CollectNameClasses(const Conjunction& conjunction, ObjectPlan* plan);
  Result<ExprId> Members(const ObjectPlan& plan, int depth);
  Result<ExprId> ClassMember(const NameClass& name_class, int depth);
  bool EmitsExtras(const Conjunction& conjunction) const;

  // Keyword access; the error names the keyword and where it stands.
  Result<std::optional<uint32_t>> Count(const Json& schema, const char* key);
  Result<const Json*> ObjectAt(const Json& schema, const char* key);
  const Json* Child(const Json& parent, const Json& child, const std::string& key);
  std::string PathOf(const Json& schema) const;
  Error Fault(const Json& schema, std::string_view keyword, std::string_view message) const;

  GrammarBuilder& builder_;
  const Json& root_;
  const SchemaOptions options_;
  JsonExprs json_;
  std::map<std::tuple<Conjunction, Form, int>, ExprId> rules_;
  std::map<std::pair<std::string, RegexBound>, Result<Dfa>> searches_;
  std::vector<Job> jobs_;
  std::unordered_map<const Json*, std::pair<const Json*, std::string>> parents_;
  Budget own_budget_;
  Budget* budget_;
  // Not a grammar to write by but a question, whether two branches of a oneOf overlap: everything is taken for more
  // than it is, so that "nothing fits" is certain.
  const bool looking_for_overlap_ = false;
};

}  // namespace minimo::grammar
