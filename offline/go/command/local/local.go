// Package local runs commands on the machine that runs the Pulumi engine.
package local

import (
	"context"
	"os"
	"os/exec"
	"strings"

	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"

	"changeover/offline/command/shell"
)

// Options say how a command is run.
type Options struct {
	Stdin                  *string            `pulumi:"stdin,optional"`
	Logging                *string            `pulumi:"logging,optional"`
	Interpreter            *[]string          `pulumi:"interpreter,optional"`
	Dir                    *string            `pulumi:"dir,optional"`
	Environment            *map[string]string `pulumi:"environment,optional"`
	AddPreviousOutputInEnv *bool              `pulumi:"addPreviousOutputInEnv,optional"`
}

// run runs a command in a shell; `previous` is the output of the resource's step before this one.
func (o Options) run(ctx context.Context, command string, previous shell.Output) (shell.Output, error) {
	capture, err := shell.NewCapture(ctx, o.Logging)
	if err != nil {
		return previous, err
	}
	words := []string{"/bin/sh", "-c"}
	if o.Interpreter != nil && len(*o.Interpreter) > 0 {
		words = append([]string{}, *o.Interpreter...)
	}
	words = append(words, command)
	process := exec.CommandContext(ctx, words[0], words[1:]...)
	process.Stdout, process.Stderr = &capture.Stdout, &capture.Stderr
	process.Env = os.Environ()
	if o.Environment != nil {
		process.Env = append(process.Env, assignments(*o.Environment)...)
	}
	process.Env = append(process.Env, assignments(previous.Previous(o.AddPreviousOutputInEnv))...)
	if o.Dir != nil {
		process.Dir = *o.Dir
	}
	if o.Stdin != nil {
		process.Stdin = strings.NewReader(*o.Stdin)
	}
	output, err := capture.Result(command, process.Run())
	if err != nil {
		return previous, err
	}
	return output, nil
}

func assignments(variables map[string]string) []string {
	var words []string
	for name, value := range variables {
		words = append(words, name+"="+value)
	}
	return words
}

// Command is the resource `command:local:Command`.
type Command struct{}

// CommandInputs are its inputs.
type CommandInputs struct {
	shell.Commands
	Options
}

// CommandOutputs are its inputs and what the last command printed.
type CommandOutputs struct {
	CommandInputs
	shell.Output
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

// Run is the function `command:local:run`: it runs at every preview and every update.
type Run struct{}

// RunInputs are its arguments.
type RunInputs struct {
	Options
	Command string `pulumi:"command"`
}

// RunOutputs are its arguments and what the command printed.
type RunOutputs struct {
	RunInputs
	shell.Output
}

// Invoke runs the command.
func (*Run) Invoke(
	ctx context.Context, request infer.FunctionRequest[RunInputs],
) (infer.FunctionResponse[RunOutputs], error) {
	output, err := request.Input.run(ctx, request.Input.Command, shell.Output{})
	return infer.FunctionResponse[RunOutputs]{Output: RunOutputs{RunInputs: request.Input, Output: output}}, err
}
