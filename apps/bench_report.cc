// minimo bench report: result files as one page.
#include <memory>

#include "apps/bench.h"
#include "bench/report.h"

namespace minimo {

void AddBenchReport(CLI::App& bench, Commands& commands) {
  struct Flags {
    std::vector<std::string> files;
    std::string html;
    std::string title = "minimo: measurements";
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* app = bench.add_subcommand("report", "Results of the other commands as one self-contained page with plots");
  app->add_option("FILES", flags->files, "what --json or --save-result wrote")->required();
  app->add_option("--html", flags->html, "the page to write")->required();
  app->add_option("--title", flags->title)->capture_default_str();
  commands.Body(*app, [flags] { return bench::WriteReport(flags->files, flags->title, flags->html); });
}

}  // namespace minimo
