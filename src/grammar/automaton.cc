#include "grammar/automaton.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "base/error.h"

namespace minimo::grammar {
namespace {

constexpr size_t kWorkBudget = 20'000'000;  // edges looked at by one construction: about a second
constexpr size_t kMinimiseBelow = 2000;     // states; Moore's algorithm is quadratic on long chains

Error TooComplex() { return Error{"it is too complex (its automaton would be too large)"}; }

Dfa Trim(const Dfa& dfa) {
  const size_t n = dfa.states.size();
  std::vector<std::vector<int32_t>> sources(n);
  std::vector<bool> alive(n, false);
  std::vector<int32_t> work;
  for (size_t s = 0; s < n; ++s) {
    for (const Edge& e : dfa.states[s].edges) sources[static_cast<size_t>(e.to)].push_back(static_cast<int32_t>(s));
    if (dfa.states[s].accepting) alive[s] = true, work.push_back(static_cast<int32_t>(s));
  }
  while (!work.empty()) {
    const int32_t s = work.back();
    work.pop_back();
    for (const int32_t from : sources[static_cast<size_t>(s)]) {
      if (alive[static_cast<size_t>(from)]) continue;
      alive[static_cast<size_t>(from)] = true;
      work.push_back(from);
    }
  }
  Dfa out;
  if (n == 0 || !alive[0]) return out;
  std::vector<int32_t> number(n, -1);
  for (size_t s = 0, k = 0; s < n; ++s) {
    if (alive[s]) number[s] = static_cast<int32_t>(k++);
  }
  for (size_t s = 0; s < n; ++s) {
    if (!alive[s]) continue;
    Dfa::State state;
    state.accepting = dfa.states[s].accepting;
    for (const Edge& e : dfa.states[s].edges) {
      const int32_t to = number[static_cast<size_t>(e.to)];
      if (to < 0) continue;
      if (!state.edges.empty() && state.edges.back().to == to && state.edges.back().high + 1 == e.low) {
        state.edges.back().high = e.high;
      } else {
        state.edges.push_back({e.low, e.high, to});
      }
    }
    out.states.push_back(std::move(state));
  }
  return out;
}

// Moore's partition refinement; classes are numbered by their first state, so that the start stays state 0.
Dfa Minimise(const Dfa& dfa) {
  const size_t n = dfa.states.size();
  if (n > kMinimiseBelow) return dfa;
  std::vector<int32_t> block(n);
  for (size_t s = 0; s < n; ++s) block[s] = dfa.states[s].accepting != dfa.states[0].accepting;
  size_t blocks = 0;
  for (;;) {
    std::map<std::vector<uint32_t>, int32_t> seen;
    std::vector<int32_t> refined(n);
    for (size_t s = 0; s < n; ++s) {
      std::vector<uint32_t> signature = {static_cast<uint32_t>(block[s])};
      for (const Edge& e : dfa.states[s].edges) {
        const uint32_t to = static_cast<uint32_t>(block[static_cast<size_t>(e.to)]);
        const size_t size = signature.size();
        if (size >= 4 && signature[size - 1] == to && signature[size - 2] + 1 == e.low) {
          signature[size - 2] = e.high;
        } else {
          signature.insert(signature.end(), {e.low, e.high, to});
        }
      }
      refined[s] = seen.try_emplace(std::move(signature), static_cast<int32_t>(seen.size())).first->second;
    }
    block = std::move(refined);
    if (seen.size() == blocks) break;
    blocks = seen.size();
  }
  Dfa out;
  out.states.resize(blocks);
  std::vector<bool> done(blocks, false);
  for (size_t s = 0; s < n; ++s) {
    const size_t b = static_cast<size_t>(block[s]);
    if (done[b]) continue;
    done[b] = true;
    out.states[b] = dfa.states[s];
    for (Edge& e : out.states[b].edges) e.to = block[static_cast<size_t>(e.to)];
  }
  return Trim(out);  // joins neighbouring edges
}

void CloseOverEmpty(const Nfa& nfa, std::vector<int32_t>* set) {
  std::vector<int32_t> work = *set;
  std::vector<int32_t>& out = *set;
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  std::vector<bool> member;
  member.resize(nfa.states.size());
  for (const int32_t s : out) member[static_cast<size_t>(s)] = true;
  while (!work.empty()) {
    const int32_t s = work.back();
    work.pop_back();
    for (const int32_t to : nfa.states[static_cast<size_t>(s)].epsilons) {
      if (member[static_cast<size_t>(to)]) continue;
      member[static_cast<size_t>(to)] = true;
      out.push_back(to);
      work.push_back(to);
    }
  }
  std::sort(out.begin(), out.end());
}

}  // namespace

CharSet Normalise(CharSet set) {
  std::sort(set.begin(), set.end(), [](const Range& a, const Range& b) { return a.low < b.low; });
  CharSet out;
  for (const Range& r : set) {
    if (r.low > r.high) continue;
    if (!out.empty() && r.low <= out.back().high + 1) {
      out.back().high = std::max(out.back().high, r.high);
    } else {
      out.push_back(r);
    }
  }
  return out;
}

const CharSet& AllScalars() {
  static const CharSet all = {{0, 0xD7FF}, {0xE000, kMaxCodePoint}};
  return all;
}

CharSet ComplementOf(const CharSet& set) {
  CharSet with_surrogates = set;
  with_surrogates.push_back({0xD800, 0xDFFF});
  with_surrogates = Normalise(std::move(with_surrogates));
  CharSet out;
  uint32_t next = 0;
  for (const Range& r : with_surrogates) {
    if (r.low > next) out.push_back({next, r.low - 1});
    next = r.high + 1;
  }
  if (next <= kMaxCodePoint) out.push_back({next, kMaxCodePoint});
  return out;
}

int32_t Nfa::AddBytes(int32_t from, std::string_view text) {
  for (const char c : text) {
    const int32_t to = Add();
    Link(from, static_cast<uint8_t>(c), to);
    from = to;
  }
  return from;
}

int32_t Dfa::Next(int32_t state, uint32_t symbol) const {
  const auto& edges = states[static_cast<size_t>(state)].edges;
  const auto it = std::upper_bound(edges.begin(), edges.end(), symbol,
                                   [](uint32_t value, const Edge& e) { return value < e.low; });
  if (it == edges.begin() || std::prev(it)->high < symbol) return -1;
  return std::prev(it)->to;
}

bool Dfa::Accepts(std::span<const uint32_t> symbols) const {
  if (empty()) return false;
  int32_t state = 0;
  for (const uint32_t symbol : symbols) {
    state = Next(state, symbol);
    if (state < 0) return false;
  }
  return states[static_cast<size_t>(state)].accepting;
}

Result<Dfa> Determinize(const Nfa& nfa, bool minimise) {
  Dfa dfa;
  std::map<std::vector<int32_t>, int32_t> numbers;
  std::vector<const std::vector<int32_t>*> sets;
  size_t work = 0;
  const auto number = [&](std::vector<int32_t> set) {
    CloseOverEmpty(nfa, &set);
    work += set.size() + nfa.states.size() / 16;
    const auto [it, is_new] = numbers.try_emplace(std::move(set), static_cast<int32_t>(sets.size()));
    if (is_new) {
      sets.push_back(&it->first);
      Dfa::State state;
      for (const int32_t s : it->first) state.accepting |= nfa.states[static_cast<size_t>(s)].accepting;
      dfa.states.push_back(std::move(state));
    }
    return it->second;
  };
  number({nfa.start});
  for (size_t at = 0; at < sets.size(); ++at) {
    std::vector<Edge> edges;
    for (const int32_t s : *sets[at]) {
      const auto& more = nfa.states[static_cast<size_t>(s)].edges;
      edges.insert(edges.end(), more.begin(), more.end());
    }
    std::vector<uint32_t> cuts;  // where the set of open edges changes
    for (const Edge& e : edges) cuts.push_back(e.low), cuts.push_back(e.high + 1);
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) { return a.low < b.low; });
    std::vector<Edge> open;
    size_t next_edge = 0;
    for (size_t c = 0; c + 1 < cuts.size(); ++c) {
      std::erase_if(open, [&](const Edge& e) { return e.high < cuts[c]; });
      while (next_edge < edges.size() && edges[next_edge].low <= cuts[c]) open.push_back(edges[next_edge++]);
      if (open.empty()) continue;
      work += open.size();
      std::vector<int32_t> targets;
      for (const Edge& e : open) targets.push_back(e.to);
      const int32_t to = number(std::move(targets));
      dfa.states[at].edges.push_back({cuts[c], cuts[c + 1] - 1, to});
    }
    if (sets.size() > kMaxDfaStates || work > kWorkBudget) return TooComplex();
  }
  return minimise ? Minimise(Trim(dfa)) : Trim(dfa);
}

Result<Dfa> Intersect(const Dfa& a, const Dfa& b) {
  Dfa out;
  if (a.empty() || b.empty()) return out;
  std::map<std::pair<int32_t, int32_t>, int32_t> numbers;
  std::vector<std::pair<int32_t, int32_t>> pairs;
  const auto number = [&](int32_t s, int32_t t) {
    const auto [it, is_new] = numbers.try_emplace({s, t}, static_cast<int32_t>(pairs.size()));
    if (is_new) {
      pairs.emplace_back(s, t);
      out.states.push_back(
          {{}, a.states[static_cast<size_t>(s)].accepting && b.states[static_cast<size_t>(t)].accepting});
    }
    return it->second;
  };
  number(0, 0);
  for (size_t at = 0; at < pairs.size(); ++at) {
    const auto& left = a.states[static_cast<size_t>(pairs[at].first)].edges;
    const auto& right = b.states[static_cast<size_t>(pairs[at].second)].edges;
    for (size_t i = 0, j = 0; i < left.size() && j < right.size();) {
      const uint32_t low = std::max(left[i].low, right[j].low), high = std::min(left[i].high, right[j].high);
      if (low <= high) {
        const int32_t to = number(left[i].to, right[j].to);
        out.states[at].edges.push_back({low, high, to});
      }
      left[i].high < right[j].high ? ++i : ++j;
    }
    if (pairs.size() > 2 * kMaxDfaStates) return TooComplex();
  }
  return Minimise(Trim(out));
}

Result<Dfa> Complement(const Dfa& a) {
  Dfa out = a;
  const int32_t sink = static_cast<int32_t>(out.states.size());
  out.states.emplace_back();
  for (size_t s = 0; s < out.states.size(); ++s) {
    Dfa::State& state = out.states[s];
    state.accepting = !state.accepting;
    CharSet covered;
    for (const Edge& e : state.edges) covered.push_back({e.low, e.high});
    for (const Range& r : ComplementOf(Normalise(std::move(covered)))) state.edges.push_back({r.low, r.high, sink});
    std::sort(state.edges.begin(), state.edges.end(), [](const Edge& x, const Edge& y) { return x.low < y.low; });
  }
  return Minimise(Trim(out));
}

Nfa ToNfa(const Dfa& dfa) {
  Nfa nfa;
  for (const Dfa::State& state : dfa.states) nfa.states.push_back({state.edges, {}, state.accepting});
  if (nfa.states.empty()) nfa.Add();
  return nfa;
}

Dfa DfaOfStrings(const std::vector<std::vector<uint32_t>>& strings) {
  std::vector<std::map<uint32_t, int32_t>> children(1);
  std::vector<bool> accepting(1, false);
  for (const auto& text : strings) {
    size_t at = 0;
    for (const uint32_t symbol : text) {
      const auto [it, is_new] = children[at].try_emplace(symbol, static_cast<int32_t>(children.size()));
      at = static_cast<size_t>(it->second);
      if (is_new) children.emplace_back(), accepting.push_back(false);
    }
    accepting[at] = true;
  }
  Dfa dfa;
  for (size_t s = 0; s < children.size(); ++s) {
    Dfa::State state;
    state.accepting = accepting[s];
    for (const auto& [symbol, to] : children[s]) state.edges.push_back({symbol, symbol, to});
    dfa.states.push_back(std::move(state));
  }
  return Trim(dfa);
}

Result<Dfa> DfaOfSteps(int64_t start, std::span<const uint32_t> symbols,
                       const std::function<int64_t(int64_t state, uint32_t symbol)>& next,
                       const std::function<bool(int64_t state)>& accepting) {
  Dfa dfa;
  std::unordered_map<int64_t, int32_t> numbers;
  std::vector<int64_t> states;
  const auto number = [&](int64_t state) {
    const auto [it, is_new] = numbers.try_emplace(state, static_cast<int32_t>(states.size()));
    if (is_new) states.push_back(state), dfa.states.push_back({{}, accepting(state)});
    return it->second;
  };
  number(start);
  for (size_t at = 0; at < states.size(); ++at) {
    for (const uint32_t symbol : symbols) {  // ascending
      const int64_t to = next(states[at], symbol);
      if (to < 0) continue;
      const int32_t target = number(to);
      dfa.states[at].edges.push_back({symbol, symbol, target});
    }
    if (states.size() > 10 * kMaxDfaStates) return TooComplex();
  }
  return Minimise(Trim(dfa));
}

}  // namespace minimo::grammar
