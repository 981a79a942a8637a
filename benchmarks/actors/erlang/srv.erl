%% A counter as Erlang has it: a gen_server.
-module(srv).
-behaviour(gen_server).
-export([start_link/0, init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

start_link() -> gen_server:start_link(?MODULE, [], []).

init([]) -> {ok, 0}.
handle_call(get, _From, N) -> {reply, N, N}.
handle_cast({ping, _}, N) -> {noreply, N + 1}.
handle_info({ping, _}, N) -> {noreply, N + 1}.
terminate(_Reason, _N) -> ok.
