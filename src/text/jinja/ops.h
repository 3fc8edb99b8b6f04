// What the operators of the language do with values.
#pragma once

#include <string_view>

#include "minimo/result.h"
#include "text/jinja/ast.h"
#include "text/jinja/runtime.h"
#include "text/jinja/value.h"

namespace minimo::jinja {

Result<Value> BinaryOperation(Runtime& runtime, BinaryOp op, const Value& a, const Value& b);
Result<Value> Negate(const Value& value, bool negative);  // -value or +value
Result<bool> CompareOperation(Runtime& runtime, CompareOp op, const Value& a, const Value& b);
Result<bool> Contains(Runtime& runtime, const Value& container, const Value& item);

// value.name and value[key]: as Jinja looks things up, which ends in an undefined value rather than in an error.
Result<Value> GetAttr(Runtime& runtime, const Value& value, std::string_view name);
Result<Value> GetItem(Runtime& runtime, const Value& value, const Value& key);
// value[start:stop:step], None for what is left out.
Result<Value> GetSlice(Runtime& runtime, const Value& value, const Value& start, const Value& stop, const Value& step);

// The items in order; consumes a generator.
Result<Values> Iterate(Runtime& runtime, const Value& value);
bool IsIterable(const Value& value);
Result<int64_t> Length(const Value& value);

Result<Value> CallValue(Runtime& runtime, const Value& callee, Args args);

}  // namespace minimo::jinja
