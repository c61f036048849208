package remote

import (
	"context"
	"fmt"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"

	"changeover/offline/command/shell"
)

// Command is the resource `command:remote:Command`.
type Command struct{}

// CommandInputs are its inputs.
type CommandInputs struct {
	shell.Commands
	Connection             *Connection        `pulumi:"connection" provider:"secret"`
	Environment            *map[string]string `pulumi:"environment,optional"`
	Stdin                  *string            `pulumi:"stdin,optional"`
	Logging                *string            `pulumi:"logging,optional"`
	AddPreviousOutputInEnv *bool              `pulumi:"addPreviousOutputInEnv,optional"`
}

// CommandOutputs are its inputs and what the last command printed.
type CommandOutputs struct {
	CommandInputs
	shell.Output
}

func (c CommandInputs) run(ctx context.Context, command string, previous shell.Output) (shell.Output, error) {
	capture, err := shell.NewCapture(ctx, c.Logging)
	if err != nil {
		return previous, err
	}
	client, err := c.Connection.Dial(ctx)
	if err != nil {
		return previous, err
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return previous, err
	}
	defer session.Close()

	const advice = "the SSH server has to accept it (AcceptEnv); or write it before the command: NAME=value command"
	if c.Environment != nil {
		for name, value := range *c.Environment {
			if err := session.Setenv(name, value); err != nil {
				return previous, fmt.Errorf("could not set environment variable %q (%s): %w", name, advice, err)
			}
		}
	}
	for name, value := range previous.Previous(c.AddPreviousOutputInEnv) {
		if err := session.Setenv(name, value); err != nil {
			p.GetLogger(ctx).Warningf("could not set environment variable %q (%s): %v", name, advice, err)
		}
	}
	if c.Stdin != nil {
		session.Stdin = strings.NewReader(*c.Stdin)
	}
	session.Stdout, session.Stderr = &capture.Stdout, &capture.Stderr

	// A session can't be cancelled; without its connection it ends.
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer stop()
	output, err := capture.Result(command, session.Run(command))
	if err != nil {
		return previous, err
	}
	return output, nil
}

// Create runs the create command.
func (*Command) Create(
	ctx context.Context, request infer.CreateRequest[CommandInputs],
) (infer.CreateResponse[CommandOutputs], error) {
	id, err := resource.NewUniqueHex(request.Name, 8, 0)
	state := CommandOutputs{CommandInputs: request.Inputs}
	if err == nil && !request.DryRun && state.Commands.Create != nil {
		state.Output, err = state.run(ctx, *state.Commands.Create, state.Output)
	}
	return infer.CreateResponse[CommandOutputs]{ID: id, Output: state}, err
}

// Update runs the update command or, without one, the create command.
func (*Command) Update(
	ctx context.Context, request infer.UpdateRequest[CommandInputs, CommandOutputs],
) (infer.UpdateResponse[CommandOutputs], error) {
	var err error
	state := CommandOutputs{CommandInputs: request.Inputs, Output: request.State.Output}
	if command := state.OnUpdate(); command != nil && !request.DryRun {
		state.Output, err = state.run(ctx, *command, state.Output)
	}
	return infer.UpdateResponse[CommandOutputs]{Output: state}, err
}

// Delete runs the delete command, as it stands in state.
func (*Command) Delete(ctx context.Context, request infer.DeleteRequest[CommandOutputs]) (infer.DeleteResponse, error) {
	state := request.State
	if state.Commands.Delete == nil {
		return infer.DeleteResponse{}, nil
	}
	_, err := state.run(ctx, *state.Commands.Delete, state.Output)
	return infer.DeleteResponse{}, err
}
