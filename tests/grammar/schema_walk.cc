// schema_walk MODEL_FOLDER SCHEMAS.json WALKS: for each schema of the file, WALKS random texts under its grammar, one
// JSON line each: {"schema": index, "text": "..."} or {"schema": index, "error": "..."}. tests/grammar/validate.py
// checks them.
#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "grammar/structured_output.h"
#include "grammar/tokenizer_vocabulary.h"
#include "sampling/generation_config.h"
#include "tests/grammar/random_walk.h"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const auto tokenizer = minimo::Tokenizer::FromFolder(argv[1]);
  const auto config = minimo::LoadGenerationConfig(argv[1]);
  if (!tokenizer.ok() || !config.ok()) return 2;
  std::ifstream file(argv[2]);
  const auto schemas = nlohmann::ordered_json::parse(file);
  const auto vocabulary = minimo::grammar::VocabularyOf(**tokenizer, config->eos_ids);
  const int32_t vocab = (*tokenizer)->vocab_size() + 49;  // rows of logits beyond the tokens
  for (size_t i = 0; i < schemas.size(); ++i) {
    const auto report = [&](const char* key, const std::string& value) {
      std::cout << nlohmann::json{{"schema", i}, {key, value}}.dump() << "\n";
    };
    const auto matcher = minimo::grammar::CompileJsonSchema(schemas[i].at("schema").dump(), vocabulary);
    if (!matcher.ok()) {
      report("error", matcher.error().message);
      continue;
    }
    for (int walk = 0; walk < std::atoi(argv[3]); ++walk) {
      std::mt19937 rng(static_cast<uint32_t>(i * 1000 + static_cast<size_t>(walk)));
      const int free_tokens = static_cast<int>(rng() % 60);
      const auto text = minimo::testing::RandomWalk(**matcher, **tokenizer, vocab, free_tokens, &rng);
      report(text.ok() ? "text" : "error", text.ok() ? *text : text.error().message);
    }
  }
  return 0;
}
