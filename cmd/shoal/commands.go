package main

import "github.com/urfave/cli/v2"

// commands are the verbs, in the order in which help shows them.
func commands() []*cli.Command {
	return []*cli.Command{
		runCommand(),
		planCommand(),
		scaleCommand(),
		cronCommand(),
		stopCommand(),
		startCommand(),
		restartCommand(),
		rmCommand(),
		rollbackCommand(),
		promoteCommand(),
		failCommand(),
		diffCommand(),
		failoverCommand(),
		imageCommand(),

		jobsCommand(),
		psCommand(),
		whyCommand(),
		logsCommand(),
		execCommand(),
		eventsCommand(),
		topCommand(),
		historyCommand(),

		agentCommand(),
		tokenCommand(),
		nodeCommand(),
		clusterCommand(),
		membersCommand(),
		statusCommand(),

		versionCommand(),
		completionCommand(),
		debugCommand(),
		helpCommand(),
		demoWebCommand(),
		ociCommand(),
		docsCommand(),
	}
}
