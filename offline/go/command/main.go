// Command pulumi-resource-command is the Pulumi plugin "command" for machines that can't download the published one.
//
// The sources of the published plugin are in no registry, so this is a second implementation of the part that the
// published SDK uses of it: local.Command, local.run, remote.Command and remote.CopyToRemote, on the framework and
// at the framework's version that the published plugin is written with. It has no assetPaths, archivePaths or CopyFile.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"

	"changeover/offline/command/local"
	"changeover/offline/command/remote"
)

// version is set by the linker. The engine refuses a plugin that reports another version than it asked for.
var version string

func main() {
	plugin := infer.Provider(infer.Options{
		Resources: []infer.InferredResource{
			infer.Resource(&local.Command{}),
			infer.Resource(&remote.Command{}),
			infer.Resource(&remote.CopyToRemote{}),
		},
		Functions: []infer.InferredFunction{infer.Function(&local.Run{})},
	})
	if err := p.RunProvider(whileParentLives(), "command", version, plugin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// whileParentLives is done when the engine is gone. The framework notices it too, but then does not stop: after a
// killed `pulumi up` its plugins stay for ever.
func whileParentLives() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	parent := os.Getppid()
	go func() {
		for os.Getppid() == parent {
			time.Sleep(time.Second)
		}
		cancel()
	}()
	return ctx
}
