// The functions that templates can name: filters, tests, methods of values, globals.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "minimo/result.h"
#include "text/jinja/runtime.h"
#include "text/jinja/value.h"

namespace minimo::jinja {

using Function = Result<Value> (*)(Runtime& runtime, const Value& subject, Args& args);
using Test = Result<bool> (*)(Runtime& runtime, const Value& subject, Args& args);

// Null: no such filter or test.
Function FindFilter(std::string_view name);
Test FindTest(std::string_view name);

// Like Jinja's call_filter and call_test, for names that are known only when the template runs.
Result<Value> CallFilter(Runtime& runtime, const std::string& name, const Value& subject, Args args);
Result<bool> CallTest(Runtime& runtime, const std::string& name, const Value& subject, Args args);

// The method of a string, list, dict or number, bound to it; what the sandbox refuses is an undefined value.
std::optional<Value> FindMethod(const Value& value, std::string_view name);

// range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
std::optional<Value> FindGlobal(std::string_view name);

// One table per file of filters.
Function FindTextFilter(std::string_view name);
Function FindSequenceFilter(std::string_view name);
Function FindValueFilter(std::string_view name);
Function FindStringMethod(std::string_view name);

// Takes the arguments of one call by position and name; the first fault is Done()'s result.
class ArgReader {
 public:
  ArgReader(std::string_view function, Args& args) : function_(function), args_(args) {}

  Value Required(std::string_view name);
  Value Optional(std::string_view name, Value otherwise);
  Status Done();

 private:
  std::optional<Value> Take(std::string_view name);

  std::string function_;
  Args& args_;
  size_t position_ = 0;
  size_t wanted_ = 0;
  std::string missing_;
};

// Errors for arguments of the wrong type.
Result<int64_t> ToIndex(const Value& value);  // "'str' object cannot be interpreted as an integer"
Result<std::string> ToText(const Value& value, std::string_view what);  // "what must be str, not int"

}  // namespace minimo::jinja
