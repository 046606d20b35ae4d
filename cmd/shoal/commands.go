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
		killCommand(),
		pauseCommand(),
		unpauseCommand(),
		waitCommand(),
		rollbackCommand(),
		promoteCommand(),
		failCommand(),
		diffCommand(),
		failoverCommand(),
		rebalanceCommand(),
		imageCommand(),
		systemCommand(),

		jobsCommand(),
		psCommand(),
		whyCommand(),
		logsCommand(),
		execCommand(),
		attachCommand(),
		cpCommand(),
		portForwardCommand(),
		eventsCommand(),
		topCommand(),
		statsCommand(),
		inspectCommand(),
		portCommand(),
		changesCommand(),
		exportCommand(),
		historyCommand(),

		agentCommand(),
		tokenCommand(),
		nodeCommand(),
		clusterCommand(),
		membersCommand(),
		statusCommand(),
		chaosCommand(),

		versionCommand(),
		completionCommand(),
		debugCommand(),
		helpCommand(),
		demoWebCommand(),
		chaosHelperCommand(),
		ociCommand(),
		docsCommand(),
	}
}
