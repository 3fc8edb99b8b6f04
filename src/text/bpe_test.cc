// The queue against the definition: join the leftmost pair of the lowest rank until there is none.
#include "text/bpe.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "text/byte_level.h"

namespace minimo {
namespace {

TEST(Bpe, AgreesWithItsDefinition) {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    BpeSpec spec;
    std::vector<std::string> tokens;
    const auto add = [&](const std::string& token) {
      spec.tokens.Add(token);
      spec.token_ids.push_back(static_cast<int32_t>(tokens.size()));
      tokens.push_back(token);
    };
    for (const char* letter : {"a", "b", "c"}) add(letter);
    std::map<std::pair<std::string, std::string>, int> ranks;
    for (int rank = 0; rank < 25; ++rank) {
      const std::string left = tokens[random() % tokens.size()], right = tokens[random() % tokens.size()];
      if (!ranks.emplace(std::pair(left, right), rank).second) continue;
      if (std::find(tokens.begin(), tokens.end(), left + right) == tokens.end()) add(left + right);
    }
    std::map<int, std::pair<std::string, std::string>> by_rank;
    for (const auto& [pair, rank] : ranks) by_rank[rank] = pair;
    for (const auto& [rank, pair] : by_rank) {
      spec.merges.Add(pair.first);
      spec.merges.Add(pair.second);
    }
    Bpe::TokenIds ids;
    for (size_t i = 0; i < tokens.size(); ++i) ids.emplace(tokens[i], static_cast<int32_t>(i));
    const auto bpe = Bpe::Create(spec, ids);
    ASSERT_TRUE(bpe.ok()) << bpe.error().message;

    Bpe::Scratch scratch;
    for (int i = 0; i < 60; ++i) {
      std::vector<std::string> parts(1 + random() % 90);
      std::string word;
      for (std::string& part : parts) word += part = std::string(1, static_cast<char>('a' + random() % 3));
      for (;;) {
        size_t best = parts.size();
        for (size_t p = 0; p + 1 < parts.size(); ++p) {
          const auto rank = ranks.find({parts[p], parts[p + 1]});
          if (rank == ranks.end()) continue;
          if (best == parts.size() || rank->second < ranks[{parts[best], parts[best + 1]}]) best = p;
        }
        if (best == parts.size()) break;
        parts[best] += parts[best + 1];
        parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
      }
      std::vector<int32_t> expected, got, again;
      for (const std::string& part : parts) expected.push_back(ids[part]);
      (*bpe)->Encode(word, &scratch, &got);
      (*bpe)->Encode(word, &scratch, &again);  // from the cache, if it is short
      ASSERT_EQ(got, expected) << word;
      ASSERT_EQ(again, expected) << word;
    }
  }
}

TEST(ByteLevel, AlphabetIsGpt2s) {
  EXPECT_EQ(ByteLevelCharacter('a'), "a");
  EXPECT_EQ(ByteLevelCharacter(' '), "\u0120");
  EXPECT_EQ(ByteLevelCharacter('\n'), "\u010A");
  EXPECT_EQ(ByteLevelCharacter(0xAD), "\u0143");  // the last of the 68
  for (int byte = 0; byte < 256; ++byte) {
    const std::string_view character = ByteLevelCharacter(static_cast<uint8_t>(byte));
    EXPECT_EQ(ByteLevelBytes(character), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(ByteLevelBytes("a b"), "a b");  // a space is not in the alphabet: taken as it stands
  EXPECT_EQ(ByteLevelBytes("\u65E5\u0120"), "\u65E5\u0120");
}

}  // namespace
}  // namespace minimo
