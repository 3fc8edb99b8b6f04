// Splits a template into tokens as Jinja2 does with trim_blocks and lstrip_blocks on, the settings that Hugging Face
// chat templates are written for: the newline after a block tag goes, and so does white space before one on its line.
#pragma once

#include <string>
#include <vector>

#include "minimo/result.h"

namespace minimo::jinja {

enum class TokenKind {
  kData,
  kBlockBegin,
  kBlockEnd,
  kVariableBegin,
  kVariableEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;  // of data, names, strings (unescaped) and operators
  int64_t integer = 0;
  double number = 0;
  int line = 0;
};

// The last token is kEnd. An error's line is in its message.
Result<std::vector<Token>> Tokenize(std::string_view source);

// As Jinja's messages name it: "end of statement block", the name itself, the operator.
std::string Describe(const Token& token);

}  // namespace minimo::jinja
