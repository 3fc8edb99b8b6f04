// Arrays of a schema.
#include <algorithm>

#include "base/error.h"
#include "grammar/schema_compiler.h"

namespace minimo::grammar {
namespace {

constexpr size_t kMaxUniqueValues = 8;  // 2^8 sets of values used

bool IsFalse(const Json& schema) { return schema.is_boolean() && !schema.get<bool>(); }

}  // namespace

Result<ExprId> SchemaCompiler::Array(const Conjunction& conjunction, int depth) {
  uint32_t min = 0, max = kUnbounded;
  size_t prefix = 0;
  const Json* unique = nullptr;
  bool says_items = false;
  struct Items {
    const Json* schema;
    const Json* prefix;  // an array
    const Json* rest;    // null: anything
    uint32_t flags;
  };
  std::vector<Items> groups;
  for (const auto& [pointer, flags] : conjunction) {
    const Json& schema = *pointer;
    MINIMO_ASSIGN(const auto least, Count(schema, "minItems"));
    MINIMO_ASSIGN(const auto most, Count(schema, "maxItems"));
    if (least) min = std::max(min, *least);
    if (most) max = std::min(max, *most);
    if (const auto it = schema.find("uniqueItems"); it != schema.end() && *it == true) unique = &schema;
    Items group{&schema, nullptr, nullptr, flags & kClosed};
    const char* rest_key = "items";
    if (const auto it = schema.find("prefixItems"); it != schema.end()) {
      if (!it->is_array()) return Fault(schema, "prefixItems", "expected an array");
      group.prefix = &*it;
    }
    if (const auto it = schema.find("items"); it != schema.end() && it->is_array()) {  // before 2020-12
      group.prefix = &*it;
      rest_key = "additionalItems";
    }
    if (const auto it = schema.find(rest_key); it != schema.end()) group.rest = Child(schema, *it, rest_key);
    if (group.prefix != nullptr) {
      for (size_t i = 0; i < group.prefix->size(); ++i) {
        Child(schema, (*group.prefix)[i], fmt::format("prefixItems/{}", i));
      }
      prefix = std::max(prefix, group.prefix->size());
    }
    says_items |= group.rest != nullptr;
    groups.push_back(group);
  }
  // Items beyond a prefix are written only where the schema describes them.
  if (prefix > 0 && !says_items && options_.strict && !looking_for_overlap_)
    max = std::min(max, std::max(static_cast<uint32_t>(prefix), min));
  const auto item_schemas = [&](size_t index) {
    Conjunction schemas;
    for (const Items& group : groups) {
      if (group.prefix != nullptr && index < group.prefix->size()) {
        schemas.emplace_back(&(*group.prefix)[index], group.flags);
      } else if (group.rest != nullptr) {
        schemas.emplace_back(group.rest, group.flags);
      }
    }
    return schemas;
  };
  const Conjunction rest_schemas = item_schemas(prefix);
  if (std::any_of(rest_schemas.begin(), rest_schemas.end(), [](const Element& e) { return IsFalse(*e.first); })) {
    max = std::min(max, static_cast<uint32_t>(prefix));
  }
  if (min > max) return builder_.Never();
  if (unique != nullptr && max > 1 && !looking_for_overlap_) {
    if (prefix > 0) return Fault(*unique, "uniqueItems", "not supported beside prefixItems");
    return UniqueArray(conjunction, rest_schemas, min, max);
  }
  const auto item = [&](const Conjunction& schemas) -> Result<ExprId> {
    if (schemas.empty()) return json_.AnyValue();
    return Value(schemas, Form::kJson, depth + 1);
  };
  const ExprId comma = json_.Spaced(",\x01");
  const uint32_t fixed = static_cast<uint32_t>(prefix);
  const auto minus = [](uint32_t a, uint32_t b) { return a == kUnbounded ? kUnbounded : a > b ? a - b : 0; };
  ExprId tail = builder_.Empty();  // from item `prefix` on
  if (max > fixed) {
    MINIMO_ASSIGN(const ExprId rest, item(rest_schemas));
    const ExprId more = builder_.Sequence({comma, rest});
    if (fixed > 0) {
      tail = builder_.Repeat(more, minus(min, fixed), minus(max, fixed));
    } else {
      tail = builder_.Sequence({rest, builder_.Repeat(more, minus(min, 1), minus(max, 1))});
      if (min == 0) tail = builder_.Optional(tail);
    }
  }
  for (uint32_t i = fixed; i-- > 0;) {
    if (i >= max) continue;
    MINIMO_ASSIGN(const ExprId value, item(item_schemas(i)));
    const ExprId begin = i > 0 ? builder_.Sequence({comma, value}) : value;
    tail = builder_.Sequence({begin, tail});
    if (i >= min) tail = builder_.Optional(tail);
  }
  return builder_.Sequence({json_.Spaced("[\x01"), tail, json_.Spaced("\x01]")});
}

// Each of a few listed values at most once: the state is the set of those used.
Result<ExprId> SchemaCompiler::UniqueArray(const Conjunction& conjunction, const Conjunction& items, uint32_t min,
                                           uint32_t max) {
  const Json& schema = *conjunction[0].first;
  Conjunction flat;
  for (const Element& element : items) {
    std::vector<const Json*> active;
    MINIMO_ASSIGN(const bool possible, Flatten(element, &flat, &active));
    if (!possible) return min == 0 ? builder_.Literal("[]") : builder_.Never();
  }
  const bool listed = std::any_of(flat.begin(), flat.end(), [](const Element& e) {
    return e.first->contains("enum") || e.first->contains("const");
  });
  const bool branches = std::any_of(flat.begin(), flat.end(), [](const Element& e) {
    return e.first->contains("anyOf") || e.first->contains("oneOf");
  });
  std::vector<const Json*> values;
  if (listed && !branches) {
    MINIMO_ASSIGN(const uint32_t types, TypesOf(flat));
    MINIMO_ASSIGN(values, EnumValues(flat, types));
    MINIMO_ASSIGN(values, FilterByRest(flat, std::move(values)));
    for (size_t i = 0; i < values.size(); ++i) {
      const auto same = [&](const Json* other) { return *other == *values[i]; };
      if (std::any_of(values.begin(), values.begin() + static_cast<ptrdiff_t>(i), same)) {
        values.erase(values.begin() + static_cast<ptrdiff_t>(i--));
      }
    }
  }
  if (!listed || branches || values.size() > kMaxUniqueValues) {
    return Fault(schema, "uniqueItems",
                 fmt::format("only supported where items is an enum of at most {} values", kMaxUniqueValues));
  }
  const uint32_t all = (1u << values.size()) - 1;
  const ExprId comma = json_.Spaced(",\x01");
  std::vector<ExprId> after(all + 1);  // what may follow once a set of values is used
  for (uint32_t used = all + 1; used-- > 0;) {
    const uint32_t count = static_cast<uint32_t>(__builtin_popcount(used));
    std::vector<ExprId> choices;
    if (count >= min) choices.push_back(builder_.Empty());
    for (size_t i = 0; i < values.size() && count < max; ++i) {
      if (used >> i & 1) continue;
      const ExprId value = builder_.Literal(values[i]->dump());
      choices.push_back(builder_.Sequence({count > 0 ? comma : builder_.Empty(), value, after[used | 1u << i]}));
    }
    after[used] = builder_.Alternatives(std::move(choices));
  }
  return builder_.Sequence({json_.Spaced("[\x01"), after[0], json_.Spaced("\x01]")});
}

}  // namespace minimo::grammar
