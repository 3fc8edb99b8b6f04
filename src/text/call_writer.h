// Writes tool calls as deltas while the model writes them: a header, then the arguments' JSON piece by piece. Text
// arguments are passed on as they come; others when they are complete, as what they are depends on all of them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "minimo/output_parser.h"
#include "text/argument_types.h"

namespace minimo {

// Joins a delta to the last one where both are the same stream of text.
void AppendDelta(std::vector<ParsedDelta>& out, ParsedDelta delta);

class CallWriter {
 public:
  // `strip_newlines`: one newline at each side of a value is not part of it. Without `parallel`, only the first call
  // is written.
  CallWriter(ToolTypes types, bool strip_newlines, bool parallel)
      : types_(std::move(types)), strip_newlines_(strip_newlines), parallel_(parallel) {}

  using Deltas = std::vector<ParsedDelta>;
  void BeginCall(std::string_view name, Deltas& out);
  void BeginParameter(std::string_view name, Deltas& out);
  void AddText(std::string_view text, Deltas& out);
  void EndParameter(Deltas& out);
  void EndCall(Deltas& out);
  int calls() const { return calls_; }

 private:
  void Emit(std::string fragment, Deltas& out);
  size_t HeldBack() const;  // how much of pending_ may yet turn out not to be part of the value

  ToolTypes types_;
  bool strip_newlines_;
  bool parallel_;
  int calls_ = 0;
  bool muted_ = false;
  std::string function_;
  bool any_parameter_ = false;
  ArgumentTypes value_types_;
  bool at_start_ = false;     // nothing of the value has come
  bool string_open_ = false;  // its opening quote is written
  std::string pending_;
};

}  // namespace minimo
