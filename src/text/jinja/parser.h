// Tokens to tree, by recursive descent over Jinja2's grammar.
#pragma once

#include <memory>
#include <string_view>

#include "minimo/result.h"
#include "text/jinja/ast.h"

namespace minimo::jinja {

// An error names the line.
Result<std::shared_ptr<const Tree>> ParseTemplate(std::string_view source);

}  // namespace minimo::jinja
