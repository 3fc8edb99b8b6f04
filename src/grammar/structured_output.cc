#include "grammar/structured_output.h"

#include <utility>

#include "base/error.h"
#include "grammar/grammar.h"
#include "grammar/grammar_matcher.h"
#include "grammar/regex.h"
#include "grammar/schema_compiler.h"
#include "grammar/utf8_bytes.h"
#include "text/chat_protocol.h"

namespace minimo::grammar {
namespace {

constexpr size_t kMaxChoices = 10'000;
constexpr size_t kMaxTools = 512;

// Any text without "</think>", then that tag: all tokens but the special ones, among them other tags.
Result<ExprId> ReasoningText(GrammarBuilder* builder) {
  static constexpr std::string_view kClose = "</think>";
  const auto tag = builder->vocabulary().TagSymbols(kClose);
  Nfa nfa;  // state k < size: the last k bytes are the longest prefix of the tag that ends here
  for (size_t k = 0; k <= kClose.size(); ++k) nfa.Add();
  const int32_t end = static_cast<int32_t>(kClose.size());
  nfa.states[static_cast<size_t>(end)].accepting = true;
  const int32_t id_high = nfa.Add(), id_middle = nfa.Add(), id_low = nfa.Add();
  for (int32_t k = 0; k < end; ++k) {
    const uint8_t expected = static_cast<uint8_t>(kClose[static_cast<size_t>(k)]);
    // '<' occurs once in the tag, so that after a mismatch only it begins anew.
    CharSet others = {{0, 0xFE}};
    for (const uint8_t taken : {expected, uint8_t{'<'}}) {
      CharSet kept;
      for (const Range& r : others) {
        if (taken < r.low || taken > r.high) {
          kept.push_back(r);
          continue;
        }
        if (taken > r.low) kept.push_back({r.low, taken - 1u});
        if (taken < r.high) kept.push_back({taken + 1u, r.high});
      }
      others = std::move(kept);
    }
    nfa.Link(k, others, 0);
    nfa.Link(k, expected, k + 1);
    if (expected != '<') nfa.Link(k, '<', 1);
    nfa.Link(k, 0xFF, id_high);
  }
  // Other tags pass; the closing one, as a token, ends the text.
  const auto link_id = [&](int32_t from, size_t at, int32_t next) {
    const CharSet any = {{0, 0xFF}};
    if (!tag.has_value()) {
      nfa.Link(from, any, next);
      return;
    }
    const uint8_t own = static_cast<uint8_t>((*tag)[at]);
    CharSet other;
    if (own > 0) other.push_back({0, own - 1u});
    if (own < 0xFF) other.push_back({own + 1u, 0xFF});
    // Off the closing tag's path the rest of the id is free.
    int32_t free = from;
    for (size_t k = at; k < 4; ++k) {
      const int32_t to = k == 3 ? 0 : nfa.Add();
      nfa.Link(free, k == at ? other : any, to);
      free = to;
    }
    nfa.Link(from, own, next);
  };
  link_id(id_high, 1, id_middle);
  link_id(id_middle, 2, id_low);
  link_id(id_low, 3, tag.has_value() ? end : 0);
  nfa.start = 0;
  MINIMO_ASSIGN(const Dfa dfa, Determinize(nfa));
  return builder->Leaf(dfa, /*keep=*/true);
}

// Up to two line ends or spaces, as the templates write after "</think>".
ExprId Gap(GrammarBuilder* builder) {
  const ExprId blank = builder->Alternatives({builder->Literal("\n"), builder->Literal(" ")});
  return builder->Repeat(blank, 0, 2);
}

// `bare`: blanks after the reasoning would be part of the answer.
Result<Matcher> Finish(GrammarBuilder* builder, ExprId root, Reasoning reasoning, std::string_view what,
                       bool bare = false) {
  if (reasoning != Reasoning::kNone) {
    MINIMO_ASSIGN(const ExprId text, ReasoningText(builder));
    const ExprId thought = bare ? text : builder->Sequence({text, Gap(builder)});
    if (reasoning == Reasoning::kOpen) {
      root = builder->Sequence({thought, root});
    } else {
      root = builder->Sequence({builder->Optional(builder->Sequence({builder->Tag("<think>"), thought})), root});
    }
  }
  auto grammar = builder->Finish(root);
  if (!grammar.ok()) return Errorf("{}: {}", what, grammar.error().message);
  return Matcher(std::make_shared<const GrammarMatcher>(std::move(*grammar)));
}

// A tool's arguments as <parameter ...>value</parameter> lines, in the order of its schema.
class ToolCallCompiler {
 public:
  ToolCallCompiler(GrammarBuilder* builder, const ChatProtocol& protocol)
      : builder_(*builder), protocol_(protocol) {}

  Result<ExprId> Call(const Tool& tool) {
    std::vector<ExprId> parts = {builder_.Literal(NamedTag(protocol_.call_open, tool.name) + "\n")};
    if (!tool.parameters.empty()) {
      auto schema = ParseBoundedJson(tool.parameters);
      if (!schema.ok()) return Errorf("the parameters of tool \"{}\": {}", tool.name, schema.error().message);
      const Status status = AddParameters(*schema, &parts);
      if (!status.ok()) return Errorf("the parameters of tool \"{}\": {}", tool.name, status.error().message);
    }
    parts.push_back(Line(protocol_.call_close));
    return builder_.Sequence(std::move(parts));
  }

 private:
  std::string NamedTag(std::string_view opening, std::string_view name) const {
    return protocol_.quoted_names ? fmt::format("{}\"{}\">", opening, name) : fmt::format("{}{}>", opening, name);
  }
  ExprId Line(std::string_view tag) { return builder_.Literal(std::string(tag) + "\n"); }

  Status AddParameters(const Json& schema, std::vector<ExprId>* parts) {
    if (!schema.is_object()) return Error{"expected a schema of an object"};
    // The members of the top level are lines, not JSON: only what names them can be honoured there.
    for (const char* key : {"$ref", "allOf", "anyOf", "oneOf", "enum", "const", "not", "patternProperties", "if"}) {
      if (schema.contains(key)) return Errorf("\"{}\" at the top level of a tool's parameters is not supported", key);
    }
    const auto properties = schema.find("properties");
    if (properties == schema.end()) return {};
    if (!properties->is_object()) return Error{"\"properties\": expected an object"};
    const auto required = schema.find("required");
    SchemaCompiler compiler(&builder_, schema, SchemaOptions{});
    for (const auto& [name, sub] : properties->items()) {
      if (name.find_first_of("\"<>\n") != std::string::npos) {
        return Errorf("the parameter name {} cannot be written in this model's tool calls", QuoteJson(name));
      }
      MINIMO_ASSIGN(const ExprId value, compiler.Compile(sub, SchemaCompiler::Form::kParameter));
      const ExprId line = builder_.Sequence(
          {builder_.Literal(NamedTag(protocol_.param_open, name)), value, Line(protocol_.param_close)});
      bool is_required = false;
      if (required != schema.end() && required->is_array()) {
        for (const Json& r : *required) is_required |= r.is_string() && r.get_ref<const std::string&>() == name;
      }
      parts->push_back(is_required ? line : builder_.Optional(line));
    }
    return {};
  }

  GrammarBuilder& builder_;
  const ChatProtocol& protocol_;
};

}  // namespace

Result<Matcher> CompileJsonSchema(std::string_view schema, const Vocabulary& vocabulary, const SchemaOptions& options,
                                  Reasoning reasoning) {
  auto json = ParseBoundedJson(schema);
  if (!json.ok()) return Errorf("json_schema: {}", json.error().message);
  GrammarBuilder builder(vocabulary);
  SchemaCompiler compiler(&builder, *json, options);
  auto root = compiler.Compile(*json, SchemaCompiler::Form::kJson);
  if (!root.ok()) return Errorf("json_schema: {}", root.error().message);
  return Finish(&builder, *root, reasoning, "json_schema");
}

Result<Matcher> CompileJsonObject(const Vocabulary& vocabulary, const SchemaOptions& options, Reasoning reasoning) {
  GrammarBuilder builder(vocabulary);
  JsonExprs json(&builder, options.flexible_whitespace);
  return Finish(&builder, json.AnyObject(), reasoning, "json_object");
}

Result<Matcher> CompileRegex(std::string_view pattern, const Vocabulary& vocabulary, Reasoning reasoning) {
  const auto dfa = CompileFullMatch(pattern);
  if (!dfa.ok()) return Errorf("regex: {}", dfa.error().message);
  const auto bytes = AsPlainBytes(*dfa);
  if (!bytes.ok()) return Errorf("regex: {}", bytes.error().message);
  GrammarBuilder builder(vocabulary);
  return Finish(&builder, builder.Leaf(*bytes), reasoning, "regex", true);
}

Result<Matcher> CompileChoice(std::span<const std::string> choices, const Vocabulary& vocabulary, Reasoning reasoning) {
  if (choices.size() > kMaxChoices)
    return Errorf("choice: {} strings; at most {} are taken", choices.size(), kMaxChoices);
  std::vector<std::vector<uint32_t>> texts;
  for (const std::string& choice : choices) {
    if (!DecodeUtf8(choice).has_value()) return Error{"choice: a string is not valid UTF-8"};
    std::vector<uint32_t> symbols;
    for (const char c : choice) symbols.push_back(static_cast<uint8_t>(c));
    texts.push_back(std::move(symbols));
  }
  GrammarBuilder builder(vocabulary);
  const ExprId one = texts.empty() ? builder.Never() : builder.Leaf(DfaOfStrings(texts));
  return Finish(&builder, one, reasoning, "choice", true);
}

Result<Matcher> CompileToolCalls(std::span<const Tool> tools, const ChatProtocol& protocol, bool parallel,
                                 const Vocabulary& vocabulary, Reasoning reasoning) {
  if (!protocol.has_tools()) return Error{"tool_choice: this model's calls have no known form, so none can be forced"};
  if (tools.empty()) return Error{"tool_choice: there are no tools to call"};
  if (tools.size() > kMaxTools) return Errorf("tools: {} of them; at most {} are taken", tools.size(), kMaxTools);
  GrammarBuilder builder(vocabulary);
  ToolCallCompiler compiler(&builder, protocol);
  std::vector<ExprId> calls;
  for (const Tool& tool : tools) {
    if (tool.name.empty() || tool.name.find_first_of("\"<>\n") != std::string::npos) {
      return Errorf("tools: the name {} cannot be written in this model's tool calls", QuoteJson(tool.name));
    }
    MINIMO_ASSIGN(const ExprId call, compiler.Call(tool));
    calls.push_back(call);
  }
  const ExprId call = builder.Alternatives(std::move(calls));
  const uint32_t most = parallel ? kUnbounded : 1;
  const auto section = [&](ExprId inside) {
    return builder.Sequence({builder.Tag(protocol.section_open), builder.Literal("\n"), inside,
                             builder.Tag(protocol.section_close)});
  };
  ExprId root;
  if (protocol.shared_section) {
    root = section(builder.Repeat(call, 1, most));
  } else {
    const ExprId block = section(call);
    const ExprId next = builder.Sequence({builder.Optional(builder.Literal("\n")), block});
    root = builder.Sequence({block, builder.Repeat(next, 0, parallel ? kUnbounded : 0)});
  }
  return Finish(&builder, root, reasoning, "tools");
}

}  // namespace minimo::grammar
