// Structured output: what a client asks for (a JSON schema, a regular expression, a choice, a tool call) compiled to a
// TokenMatcher, which lets the sampler choose only tokens that keep to it. Whatever tokens are chosen, a finished
// output parses and satisfies the schema; there is always a token to go on with.
//
// An error is the client's: it names the keyword that is not supported or not valid, and where it stands.
// The matchers returned are prototypes for SamplingParams::matcher; one may serve any number of requests at once.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/vocabulary.h"
#include "minimo/request.h"
#include "minimo/result.h"

namespace minimo {

struct ChatProtocol;  // text/chat_protocol.h

}  // namespace minimo

namespace minimo::grammar {

using Vocabulary = std::shared_ptr<const TokenVocabulary>;
using Matcher = std::shared_ptr<const TokenMatcher>;

struct SchemaOptions {
  // Spaces, or a line end and indentation, between JSON's marks. Off: none at all.
  bool flexible_whitespace = true;
  // Members and items beyond those that the schema names are written only where it asks for them, though JSON Schema
  // allows them where it is silent.
  bool strict = true;
};

// What stands before the structured part.
enum class Reasoning {
  kNone,      // nothing: the output begins with the structured part
  kOpen,      // the prompt ends in "<think>": free text up to "</think>" comes first
  kOptional,  // the model may open "<think>" itself
};

Result<Matcher> CompileJsonSchema(std::string_view schema, const Vocabulary& vocabulary,
                                  const SchemaOptions& options = {}, Reasoning reasoning = Reasoning::kNone);

// Any JSON object (response_format json_object).
Result<Matcher> CompileJsonObject(const Vocabulary& vocabulary, const SchemaOptions& options = {},
                                  Reasoning reasoning = Reasoning::kNone);

// The whole output matches the expression (ECMA-262 without look-around and back-references).
Result<Matcher> CompileRegex(std::string_view pattern, const Vocabulary& vocabulary,
                             Reasoning reasoning = Reasoning::kNone);

// The output is one of the strings.
Result<Matcher> CompileChoice(std::span<const std::string> choices, const Vocabulary& vocabulary,
                              Reasoning reasoning = Reasoning::kNone);

struct Tool {
  std::string name;
  std::string parameters;  // a JSON schema of an object; empty: no parameters
};

// The output is one call of one of the tools, or several calls if `parallel`. tool_choice: "required" with all tools, a
// named one with that tool alone.
Result<Matcher> CompileToolCalls(std::span<const Tool> tools, const ChatProtocol& protocol, bool parallel,
                                 const Vocabulary& vocabulary, Reasoning reasoning = Reasoning::kNone);

}  // namespace minimo::grammar
