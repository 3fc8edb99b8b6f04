// Objects of a schema: the declared properties in their order, then, where asked for, others.
#include <algorithm>
#include <set>

#include "base/error.h"
#include "grammar/regex.h"
#include "grammar/schema_compiler.h"
#include "grammar/utf8_bytes.h"

namespace minimo::grammar {
namespace {

constexpr size_t kMaxPatterns = 4;         // patternProperties of one object: names fall into 2^4 classes
constexpr size_t kMaxCountedStates = 20'000;  // properties x counts, for minProperties and maxProperties

std::vector<uint32_t> CodePoints(const std::string& text) { return DecodeUtf8(text).value_or(std::vector<uint32_t>()); }

}  // namespace

// Whether members that no property declares are written. JSON Schema allows them wherever it is silent; strict mode
// writes them only where they are spoken of, or where nothing else is (a free-form object).
bool SchemaCompiler::EmitsExtras(const Conjunction& conjunction) const {
  bool speaks_of_names = false, speaks_of_extras = false;
  for (const auto& [schema, flags] : conjunction) {
    if (looking_for_overlap_ && !(flags & kClosed)) continue;  // what is written is up to the closed side alone
    const auto properties = schema->find("properties");
    const auto required = schema->find("required");
    speaks_of_names |= properties != schema->end() && !properties->empty();
    speaks_of_names |= required != schema->end() && !required->empty();
    const auto extras = schema->find("additionalProperties");
    speaks_of_extras |= extras != schema->end() && *extras != false;
    speaks_of_extras |= schema->contains("patternProperties");
  }
  return !options_.strict || speaks_of_extras || !speaks_of_names;
}

Status SchemaCompiler::CollectProperties(const Conjunction& conjunction, ObjectPlan* plan) {
  std::map<std::string, size_t> index;
  std::set<std::string> closed_names;
  const auto add = [&](const std::string& name) {
    const auto [it, is_new] = index.try_emplace(name, plan->properties.size());
    if (is_new) plan->properties.push_back({name});
    return it->second;
  };
  Declared declared(conjunction.size());
  for (size_t i = 0; i < conjunction.size(); ++i) {
    const auto [schema, flags] = conjunction[i];
    MINIMO_ASSIGN(const Json* properties, ObjectAt(*schema, "properties"));
    if (properties == nullptr) continue;
    for (const auto& [name, sub] : properties->items()) {
      add(name);
      declared[i].emplace(name, &sub);
      if (flags & kClosed) closed_names.insert(name);
      Child(*schema, sub, "properties/" + name);
    }
  }
  for (const auto& [schema, flags] : conjunction) {
    const auto required = schema->find("required");
    if (required == schema->end()) continue;
    if (!required->is_array()) return Fault(*schema, "required", "expected an array of names");
    for (const Json& name : *required) {
      if (!name.is_string()) return Fault(*schema, "required", "expected an array of names");
      plan->properties[add(name.get<std::string>())].required = true;
      if (flags & kClosed) closed_names.insert(name.get<std::string>());
    }
  }
  const bool only_closed = looking_for_overlap_ && !EmitsExtras(conjunction);
  for (Property& property : plan->properties) {
    MINIMO_TRY(AddPropertySchemas(conjunction, declared, &property));
    property.forbidden |= only_closed && closed_names.count(property.name) == 0;
  }
  return {};
}

// The rules of "propertyNames". False if no name satisfies them.
Result<bool> SchemaCompiler::NameRules(const Json& schema, Conjunction* names) {
  std::vector<const Json*> active;
  const Json* rules = Child(schema, schema.at("propertyNames"), "propertyNames");
  MINIMO_ASSIGN(const bool possible, Flatten({rules, 0}, names, &active));
  if (!possible) return false;
  for (const auto& [rule, flags] : *names) {
    for (const char* key : {"enum", "const", "anyOf", "oneOf"}) {
      if (rule->contains(key)) {
        return Fault(schema, "propertyNames", fmt::format("\"{}\" inside it is not supported", key));
      }
    }
  }
  MINIMO_ASSIGN(const uint32_t types, TypesOf(*names));
  return (types & kString) != 0;
}

// What each schema object says of a member of this name.
Status SchemaCompiler::AddPropertySchemas(const Conjunction& conjunction, const Declared& declared,
                                          Property* property) {
  const std::vector<uint32_t> name = CodePoints(property->name);
  for (size_t i = 0; i < conjunction.size(); ++i) {
    const Json& schema = *conjunction[i].first;
    const uint32_t inherited = conjunction[i].second & kClosed;
    bool described = false;
    if (const auto it = declared[i].find(property->name); it != declared[i].end()) {
      property->schemas.emplace_back(it->second, inherited);
      described = true;
    }
    MINIMO_ASSIGN(const Json* patterns, ObjectAt(schema, "patternProperties"));
    if (patterns != nullptr) {
      for (const auto& [pattern, sub] : patterns->items()) {
        const auto& inner = Search(pattern, RegexBound::kInner);
        const auto& outer = Search(pattern, RegexBound::kOuter);
        if (!inner.ok()) return Fault(schema, "patternProperties", inner.error().message);
        if (!outer.ok()) return Fault(schema, "patternProperties", outer.error().message);
        // Where dialects disagree whether the name matches, both the pattern's schema and additionalProperties apply.
        const bool surely = inner->Accepts(name), perhaps = outer->Accepts(name);
        if (looking_for_overlap_ ? surely : perhaps) {
          property->schemas.emplace_back(Child(schema, sub, "patternProperties/" + pattern), inherited);
        }
        described |= looking_for_overlap_ ? perhaps : surely;
      }
    }
    if (const auto it = schema.find("additionalProperties"); it != schema.end() && !described) {
      property->schemas.emplace_back(Child(schema, *it, "additionalProperties"), inherited);
    }
    if (schema.contains("propertyNames")) {
      Conjunction names;
      MINIMO_ASSIGN(const bool possible, NameRules(schema, &names));
      uint32_t min = 0, max = kUnbounded;
      MINIMO_TRY(LengthLimits(names, &min, &max));
      MINIMO_ASSIGN(const auto dfa, StringDfa(names, 0, kUnbounded));
      property->forbidden |=
          !possible || name.size() < min || name.size() > max || (dfa.has_value() && !dfa->Accepts(name));
    }
  }
  return {};
}

// The classes of undeclared names: by which patterns they match.
Status SchemaCompiler::CollectNameClasses(const Conjunction& conjunction, ObjectPlan* plan) {
  struct Pattern {
    const Json* owner;
    Element schema;
    Dfa inner, not_outer;
  };
  std::vector<Pattern> patterns;
  std::optional<Dfa> allowed;  // by propertyNames and declared names; nothing: every name
  const auto restrict_to = [&](const Json& schema, const char* key, const Result<Dfa>& dfa) -> Status {
    if (!dfa.ok()) return Fault(schema, key, dfa.error().message);
    auto both = allowed.has_value() ? Intersect(*allowed, *dfa) : dfa;
    if (!both.ok()) return Fault(schema, key, both.error().message);
    allowed = std::move(*both);
    return {};
  };
  const Json& first = *conjunction[0].first;
  if (!plan->properties.empty()) {
    std::vector<std::vector<uint32_t>> names;
    for (const Property& property : plan->properties) names.push_back(CodePoints(property.name));
    MINIMO_TRY(restrict_to(first, "properties", Complement(DfaOfStrings(names))));
  }
  for (const auto& [pointer, flags] : conjunction) {
    const Json& schema = *pointer;
    if (const Json* sub = schema.contains("patternProperties") ? &schema.at("patternProperties") : nullptr) {
      for (const auto& [pattern, value] : sub->items()) {
        const auto& inner = Search(pattern, RegexBound::kInner);
        const auto& outer = Search(pattern, RegexBound::kOuter);
        if (!inner.ok()) return Fault(schema, "patternProperties", inner.error().message);
        if (!outer.ok()) return Fault(schema, "patternProperties", outer.error().message);
        const auto not_outer = Complement(*outer);
        if (!not_outer.ok()) return Fault(schema, "patternProperties", not_outer.error().message);
        const Json* child = Child(schema, value, "patternProperties/" + pattern);
        patterns.push_back({&schema, {child, flags & kClosed}, *inner, *not_outer});
      }
    }
    if (patterns.size() > kMaxPatterns)
      return Fault(schema, "patternProperties", fmt::format("more than {} at once", kMaxPatterns));
    if (schema.contains("propertyNames")) {
      Conjunction names;
      MINIMO_ASSIGN(const bool possible, NameRules(schema, &names));
      if (!possible) return {};  // no names at all
      uint32_t min = 0, max = kUnbounded;
      MINIMO_TRY(LengthLimits(names, &min, &max));
      MINIMO_ASSIGN(const auto dfa, StringDfa(names, 0, kUnbounded));
      if (dfa.has_value()) MINIMO_TRY(restrict_to(schema, "propertyNames", *dfa));
      if (min > 0 || max != kUnbounded) {
        if (min > 200 || (max != kUnbounded && max > 200))
          return Fault(schema, "propertyNames", "lengths beyond 200 are not supported");
        const std::string pattern =
            max == kUnbounded ? fmt::format("^[^]{{{},}}$", min) : fmt::format("^[^]{{{},{}}}$", min, max);
        MINIMO_TRY(restrict_to(schema, "propertyNames", CompileSearch(pattern)));
      }
    }
  }
  for (uint32_t set = 0; set < 1u << patterns.size(); ++set) {
    NameClass name_class;
    std::optional<Dfa> names = allowed;
    std::set<const Json*> described;
    for (size_t i = 0; i < patterns.size(); ++i) {
      const bool in = set >> i & 1;
      const Dfa& dfa = in ? patterns[i].inner : patterns[i].not_outer;
      auto both = names.has_value() ? Intersect(*names, dfa) : Result<Dfa>(dfa);
      if (!both.ok()) return Fault(first, "patternProperties", both.error().message);
      names = std::move(*both);
      if (!in) continue;
      name_class.schemas.push_back(patterns[i].schema);
      described.insert(patterns[i].owner);
    }
    bool silent = true;
    for (const auto& [schema, flags] : conjunction) {
      const auto it = schema->find("additionalProperties");
      if (it == schema->end() || described.count(schema) > 0) continue;
      silent = false;
      name_class.schemas.emplace_back(Child(*schema, *it, "additionalProperties"), flags & kClosed);
    }
    // Names that match no pattern and that no additionalProperties speaks of.
    if (set == 0 && silent && options_.strict && !patterns.empty()) continue;
    if (names.has_value() && names->empty()) continue;
    name_class.any_name = !names.has_value();
    if (names.has_value()) name_class.names = std::move(*names);
    plan->classes.push_back(std::move(name_class));
  }
  return {};
}

Result<ExprId> SchemaCompiler::Object(const Conjunction& conjunction, int depth) {
  ObjectPlan plan;
  for (const auto& [schema, flags] : conjunction) {
    MINIMO_ASSIGN(const auto least, Count(*schema, "minProperties"));
    MINIMO_ASSIGN(const auto most, Count(*schema, "maxProperties"));
    if (least && !looking_for_overlap_) plan.min = std::max(plan.min, *least);
    if (most) plan.max = std::min(plan.max, *most);
  }
  MINIMO_TRY(CollectProperties(conjunction, &plan));
  if (EmitsExtras(conjunction) && !looking_for_overlap_) MINIMO_TRY(CollectNameClasses(conjunction, &plan));
  const size_t certain = plan.properties.size() + !plan.classes.empty();  // distinct names that can be vouched for
  if (plan.min > certain) {
    const auto owner = std::find_if(conjunction.begin(), conjunction.end(),
                                    [](const Element& e) { return e.first->contains("minProperties"); });
    return Fault(*owner->first, "minProperties", "more than the declared properties and one other are not supported");
  }
  if (plan.min == 0 && plan.max == kUnbounded && plan.properties.empty() && plan.classes.size() == 1 &&
      plan.classes[0].any_name && plan.classes[0].schemas.empty()) {
    return json_.AnyObject();
  }
  MINIMO_ASSIGN(const ExprId members, Members(plan, depth));
  return builder_.Sequence({json_.Spaced("{\x01"), members, json_.Spaced("\x01}")});
}

Result<ExprId> SchemaCompiler::ClassMember(const NameClass& name_class, int depth) {
  ExprId name = json_.AnyString();
  if (!name_class.any_name) {
    MINIMO_ASSIGN(const Dfa bytes, AsJsonString(name_class.names));
    name = builder_.Leaf(bytes);
  }
  ExprId value = json_.AnyValue();
  if (!name_class.schemas.empty()) {
    MINIMO_ASSIGN(value, Value(name_class.schemas, Form::kJson, depth + 1));
  }
  return builder_.Sequence({name, json_.Spaced(":\x01"), value});
}

// Built from the last property to the first. The state beside the place is how many members there are so far, as far as
// it matters: whether there is one, and what the limits need to know.
Result<ExprId> SchemaCompiler::Members(const ObjectPlan& plan, int depth) {
  const ExprId comma = json_.Spaced(",\x01");
  std::vector<ExprId> extra_kinds;
  for (const NameClass& name_class : plan.classes) {
    MINIMO_ASSIGN(const ExprId member, ClassMember(name_class, depth));
    extra_kinds.push_back(member);
  }
  const ExprId extra = builder_.Alternatives(std::move(extra_kinds));
  const ExprId more_extra = builder_.Sequence({comma, extra});
  const size_t n = plan.properties.size();
  const bool bounded = plan.max != kUnbounded;
  const uint32_t cap = std::max({1u, plan.min, bounded ? std::min(plan.max, static_cast<uint32_t>(n) + 1) : 0});
  if (n * cap > kMaxCountedStates) return Error{"minProperties or maxProperties: too many properties to count"};
  std::vector<ExprId> after(cap + 1);  // [members so far]: what may follow
  for (uint32_t count = 0; count <= cap; ++count) {
    const uint32_t room = !bounded ? kUnbounded : plan.max > count ? plan.max - count : 0;
    const uint32_t missing = plan.min > count ? plan.min - count : 0;
    if (missing > 1 || missing > room) {
      after[count] = builder_.Never();
    } else if (count > 0) {
      after[count] = builder_.Repeat(more_extra, missing, room);
    } else {
      const ExprId rest = builder_.Repeat(more_extra, 0, room == kUnbounded ? kUnbounded : room > 0 ? room - 1 : 0);
      const ExprId some = room == 0 ? builder_.Never() : builder_.Sequence({extra, rest});
      after[count] = missing == 0 ? builder_.Optional(some) : some;
    }
  }
  for (size_t i = n; i-- > 0;) {
    const Property& property = plan.properties[i];
    ExprId value = json_.AnyValue();
    if (property.forbidden) {
      value = builder_.Never();
    } else if (!property.schemas.empty()) {
      MINIMO_ASSIGN(value, Value(property.schemas, Form::kJson, depth + 1));
    }
    const std::string key = QuoteJson(property.name) + ":\x01";
    const ExprId first_key = json_.Spaced(key), later_key = json_.Spaced(",\x01" + key);
    std::vector<ExprId> next(cap + 1);
    for (uint32_t count = 0; count <= cap; ++count) {
      std::vector<ExprId> choices;
      if (!bounded || count < plan.max) {
        choices.push_back(
            builder_.Sequence({count > 0 ? later_key : first_key, value, after[std::min(count + 1, cap)]}));
      }
      if (!property.required) choices.push_back(after[count]);
      next[count] = builder_.Alternatives(std::move(choices));
    }
    after = std::move(next);
  }
  return after[0];
}

}  // namespace minimo::grammar
